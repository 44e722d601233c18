package nodes

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

func nodeWith(name string, internalIPs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, text := range internalIPs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: text})
	}
	return n
}

// TestNodeAddresses: InternalIPs count in the API's order; of a family that is away, the last
// known ones do, until there are others or the Node goes; what cannot be used is named once.
func TestNodeAddresses(t *testing.T) {
	g := NewWithT(t)
	var logged []string
	log := funcr.New(func(_, args string) { logged = append(logged, args) }, funcr.Options{})
	k := NewKnown(nil, log)
	m := policy.NewModel("node")
	has := func(n *corev1.Node) (addrs []string) {
		m.Apply(k.Set(n))
		for _, node := range m.Nodes() {
			for _, addr := range node.Addrs {
				if node.Name == n.Name {
					addrs = append(addrs, addr.String())
				}
			}
		}
		return addrs
	}
	g.Expect(has(nodeWith("n", "203.0.113.9", "192.0.2.1", "2001:db8::1", "203.0.113.9"))).To(Equal([]string{"203.0.113.9", "192.0.2.1", "2001:db8::1"}))
	g.Expect(has(nodeWith("n", "192.0.2.1", "2001:db8::1"))).To(Equal([]string{"192.0.2.1", "2001:db8::1"}), "one of a family is gone for good")
	g.Expect(has(nodeWith("n", "2001:db8::1"))).To(Equal([]string{"192.0.2.1", "2001:db8::1"}), "the preferred family stays it")
	g.Expect(has(nodeWith("n"))).To(Equal([]string{"192.0.2.1", "2001:db8::1"}))
	g.Expect(has(nodeWith("n", "192.0.2.7"))).To(Equal([]string{"192.0.2.7", "2001:db8::1"}))
	g.Expect(has(nodeWith("six", "2001:db8::6", "192.0.2.6"))).To(Equal([]string{"2001:db8::6", "192.0.2.6"}))
	g.Expect(has(nodeWith("six", "192.0.2.6"))).To(Equal([]string{"2001:db8::6", "192.0.2.6"}))
	g.Expect(logged).To(BeEmpty())

	// An agent that starts has it of the one before, as far as there is a tunnel.
	k.earlier = func(node string) (a netip.Addr) {
		if strings.HasPrefix(node, "tunnelled") {
			a = netip.MustParseAddr("192.0.2.8")
		}
		return a
	}
	g.Expect(has(nodeWith("tunnelled-1"))).To(Equal([]string{"192.0.2.8"}))
	g.Expect(has(nodeWith("tunnelled-2", "2001:db8::2"))).To(Equal([]string{"192.0.2.8", "2001:db8::2"}))
	g.Expect(has(nodeWith("tunnelled-3", "192.0.2.3"))).To(Equal([]string{"192.0.2.3"}))
	g.Expect(has(nodeWith("direct"))).To(BeEmpty())

	bad := []string{"fe80::250:56ff:feb0:1", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "169.254.7.7", "255.255.255.255", "nonsense", "", "fe80::1%eth0"}
	for range 3 {
		g.Expect(has(nodeWith("bad", slices.Concat(bad[:5], []string{"192.0.2.3"}, bad[5:])...))).To(Equal([]string{"192.0.2.3"}))
	}
	g.Expect(logged).To(ConsistOf(And(ContainSubstring(`"node"="bad"`), ContainSubstring(strings.Join(bad, ", ")))))
	logged = nil
	has(nodeWith("bad", "192.0.2.3"))
	has(nodeWith("bad", "192.0.2.3", "fe80::1"))
	g.Expect(logged).To(HaveLen(1), "another time")
	m.Apply(k.Gone("bad"), k.Gone("n"))
	g.Expect(k.unusable).To(BeEmpty())
	g.Expect(has(nodeWith("n", "2001:db8::1"))).To(Equal([]string{"2001:db8::1"}), "another Node of the name")
}
