package flows

import (
	"fmt"
	"net/netip"
	"strings"
)

// End says which ends of flows are meant: addresses, pods, the pods of a workload or of a namespace, a node,
// or a Service. It may be compared and copied.
type End struct {
	// Network has the addresses that are meant; if it is valid, nothing else counts.
	Network netip.Prefix
	// Kind is empty for a pod, and for all pods of a namespace. Else it is "Node", "Service", or the kind of a
	// workload, such as "Deployment".
	Kind string
	// Namespace is the object's; a Node has none. Name is empty for all pods of the namespace.
	Namespace, Name string
}

// The kinds of ends that are no workloads.
const (
	nodeKind    = "Node"
	serviceKind = "Service"
)

// all stands for the name in the text of an End that means all pods of a namespace.
const all = "*"

// String is the end as ParseEnd reads it: an address, a network, NAMESPACE/POD, NAMESPACE/*,
// KIND/NAMESPACE/NAME, or Node//NAME.
func (e End) String() string {
	switch {
	case e.Network.IsValid() && e.Network.IsSingleIP():
		return e.Network.Addr().String()
	case e.Network.IsValid():
		return e.Network.String()
	case e.Kind != "":
		return e.Kind + "/" + e.Namespace + "/" + e.Name
	case e.Name == "":
		return e.Namespace + "/" + all
	}
	return e.Namespace + "/" + e.Name
}

// ParseEnd reads what String writes.
func ParseEnd(text string) (End, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return End{Network: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	if network, err := netip.ParsePrefix(text); err == nil && !network.Addr().Is4In6() {
		return End{Network: network.Masked()}, nil
	}
	parts := strings.Split(text, "/")
	switch {
	case strings.ContainsAny(parts[0], ".:"): // an address or network that is wrong: neither namespaces nor kinds have these
	case len(parts) == 2 && parts[0] != "" && parts[1] == all:
		return End{Namespace: parts[0]}, nil
	case len(parts) == 2 && parts[0] != "" && parts[1] != "":
		return End{Namespace: parts[0], Name: parts[1]}, nil
	case len(parts) == 3 && parts[0] != "" && parts[2] != "" && (parts[1] == "") == (parts[0] == nodeKind):
		return End{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, nil
	}
	return End{}, fmt.Errorf("%q is no end of flows: it must be an address, a network, NAMESPACE/POD, NAMESPACE/* for all its pods, KIND/NAMESPACE/NAME such as Deployment/shop/web, or Node//NAME", text)
}

// isSource reports whether the end is meant that a flow comes from.
func (e End) isSource(f *Flow) bool { return e.is(&f.Source) }

// isDestination reports whether the end is meant that a flow goes to, or that it asked for.
func (e End) isDestination(f *Flow) bool {
	if asked := f.Asked; asked != nil {
		if e.Network.IsValid() && e.Network.Contains(asked.IP.Unmap()) || e.Kind == serviceKind && e.Namespace == asked.Namespace && e.Name == asked.Service {
			return true
		}
	}
	return e.is(&f.Destination)
}

func (e End) is(of *Endpoint) bool {
	switch {
	case e.Network.IsValid():
		return e.Network.Contains(of.IP.Unmap())
	case e.Kind == nodeKind:
		return of.Node == e.Name
	case e.Namespace != of.Namespace || of.Pod == "":
		return false
	case e.Kind != "":
		return of.Workload != nil && of.Workload.Kind == e.Kind && of.Workload.Name == e.Name
	}
	return e.Name == "" || of.Pod == e.Name
}
