package explain

import (
	"fmt"
	"net/netip"
)

// The kinds of parties that are no workloads, besides KindPod.
const (
	// KindNetwork stands for addresses that are no pod's and no node's.
	KindNetwork Kind = "Network"
	// KindDomain stands for the addresses outside that pods were told a domain name has.
	KindDomain Kind = "Domain"
	// KindNodes stands for all nodes.
	KindNodes Kind = "Nodes"
)

// Party is one side of a row of who reaches whom: a workload, a pod that stands alone, the nodes, or
// addresses outside the cluster.
type Party struct {
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Network is that of a KindNetwork: those of its addresses that are nobody's in the cluster, and in
	// no smaller network of which policies say something else. 0.0.0.0/0 and ::/0 are thus any other
	// address.
	Network netip.Prefix `json:"network,omitzero"`
	// Size is how many pods or nodes it has that have an address, or how many addresses a domain name has. A network has none.
	Size int `json:"size,omitempty"`
}

// String is the party as people write it, such as "deploy/shop/web". Different parties have different
// texts.
func (p Party) String() string {
	switch {
	case p.Kind == KindNodes:
		return "nodes"
	case p.Kind == KindNetwork && p.Network.Bits() == 0:
		family := "IPv6"
		if p.Network.Addr().Is4() {
			family = "IPv4"
		}
		return fmt.Sprintf("outside (any other %s address)", family)
	case p.Kind == KindNetwork:
		return p.Network.String()
	case p.Kind == KindAddress:
		return p.Name
	case p.Kind == KindDomain:
		return "domain/" + p.Name
	case shortNames[p.Kind] == "":
		return fmt.Sprintf("%s/%s/%s", p.Kind, p.Namespace, p.Name)
	}
	return Target{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name}.String()
}

// Opening is what is open from one party to another.
type Opening struct {
	// Family is IPv4 or IPv6 where the two families differ, and else empty.
	Family string `json:"family,omitempty"`
	// Open are the ports, and other protocols. Where there are none, and none in Unknown, nothing is open, which
	// is said only of networks around which there is another that has something.
	Open []OpenPorts `json:"open"`
	// Unknown are ports of which nobody knows: a rule names addresses, and the pod has none yet.
	Unknown []OpenPorts `json:"unknown,omitempty"`
	// Pairs is for how many pairs of pods, nodes or networks this holds, and Of how many pairs there are
	// with addresses of the same family. Partly: they are not all.
	Pairs  int  `json:"pairs"`
	Of     int  `json:"of"`
	Partly bool `json:"partly,omitempty"`
}

// closed reports whether nothing is open, for certain.
func (o Opening) closed() bool { return len(o.Open)+len(o.Unknown) == 0 }

// outside reports whether it is of addresses that are nobody's in the cluster.
func (p Party) outside() bool { return p.Kind == KindNetwork || p.Kind == KindDomain }

// portsText are the ports of an opening, as people read them.
func (o Opening) portsText() string {
	text := openText(o.Open)
	switch {
	case o.closed():
		text = "closed"
	case len(o.Unknown) > 0:
		unknown := "not known: " + openText(o.Unknown)
		if everything(o.Unknown) {
			unknown = "not known"
		}
		if text = unknown; len(o.Open) > 0 {
			text = openText(o.Open) + "; " + unknown
		}
	case everything(o.Open):
		text = "all ports"
	}
	if o.Family != "" {
		text = o.Family + ": " + text
	}
	if o.Partly {
		text += fmt.Sprintf("  (%d of %d pairs)", o.Pairs, o.Of)
	}
	return text
}

// everything reports whether all ports of all protocols are open, and all protocols without ports.
func everything(open []OpenPorts) bool {
	for _, of := range open {
		if len(of.Ports) != 1 || of.Ports[0] != "all" {
			return false
		}
	}
	return len(open) == len(protocols)
}
