package nodes

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// Known are the Nodes as they were last fed, with the addresses that they had. It is for one
// goroutine at a time.
type Known struct {
	// earlier returns another Node's address as an earlier agent has left it in the tunnel. It
	// is nil if there was no earlier agent.
	earlier func(node string) netip.Addr
	log     logr.Logger

	addrs map[string][]netip.Addr
	// unusable are, by Node, the InternalIPs that the log has named as unusable.
	unusable map[string]string
}

// NewKnown returns one that knows no Node.
func NewKnown(earlier func(node string) netip.Addr, log logr.Logger) *Known {
	return &Known{earlier: earlier, log: log, addrs: map[string][]netip.Addr{}, unusable: map[string]string{}}
}

// Set is a Node as it is now, with the addresses that it had before (see keepAddrs). Addresses that
// cannot be used are left out, and named in the log once.
func (k *Known) Set(n *corev1.Node) policy.Change {
	node := policy.NodeOf(n)
	last, known := k.addrs[n.Name]
	if !known && k.earlier != nil {
		if a := k.earlier(n.Name); a.IsGlobalUnicast() {
			last = []netip.Addr{a}
		}
	}
	node.Addrs = keepAddrs(node.Addrs, last)
	k.addrs[n.Name] = node.Addrs
	unusable := strings.Join(policy.UnusableAddrs(n), ", ")
	if unusable != "" && k.unusable[n.Name] != unusable {
		k.log.Info("An InternalIP of a Node cannot be used, and is left out: it must be an address that is one host's in the whole cluster",
			"node", n.Name, "address", unusable)
	}
	if unusable == "" {
		delete(k.unusable, n.Name)
	} else {
		k.unusable[n.Name] = unusable
	}
	return policy.SetNode(node)
}

// Gone is a Node that is gone.
func (k *Known) Gone(name string) policy.Change {
	delete(k.addrs, name)
	delete(k.unusable, name)
	return policy.DeleteNode(name)
}

// keepAddrs returns a Node's addresses as last known: those that it has now and, of an address
// family of which it has none now, those that it had before. Cloud providers take addresses away
// for a while. Routes to the Node stay meanwhile. So the tunnel's rules must let in what comes back,
// and this node's own tunnel must not change. The family that was preferred stays preferred. An
// address that is given up for good is forgotten when the Node is gone, or when the Node has another
// one of the family.
func keepAddrs(now, before []netip.Addr) []netip.Addr {
	var kept []netip.Addr
	for _, old := range before {
		if !slices.ContainsFunc(now, func(a netip.Addr) bool { return a.Is4() == old.Is4() }) {
			kept = append(kept, old)
		}
	}
	if len(kept) > 0 && kept[0] == before[0] {
		return slices.Concat(kept, now)
	}
	return slices.Concat(now, kept)
}
