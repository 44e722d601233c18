package controllers

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
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
	e := newEnforcer(&told{}, Options{Node: "node", Log: log}, newMetrics(prometheus.NewRegistry()), nil)
	logged = nil // that nothing is committed yet
	has := func(n *corev1.Node) []string {
		_ = e.feed(func() ([]policy.Change, error) { return []policy.Change{e.setNode(n)}, nil })
		node, _ := e.model.Node(n.Name)
		return texts(node.Addrs)
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
	e.lastAddr = func(node string) (a netip.Addr) {
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
	e.Feed(e.nodeGone("bad"), e.nodeGone("n"))
	g.Expect(e.unusable).To(BeEmpty())
	g.Expect(has(nodeWith("n", "2001:db8::1"))).To(Equal([]string{"2001:db8::1"}), "another Node of the name")
}

// TestInternalIPLost: a Node in a folder loses its InternalIP for a while: the tunnel's rules
// know it all the same, as the routes do.
func TestInternalIPLost(t *testing.T) {
	g := NewWithT(t)
	folder := t.TempDir()
	write := func(addresses string) {
		g.Expect(os.WriteFile(filepath.Join(folder, "nodes.yaml"), []byte(`
apiVersion: v1
kind: Node
metadata: {name: node}
spec: {podCIDRs: [10.9.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: other}
spec: {podCIDRs: [10.9.1.0/24]}
status: {addresses: [`+addresses+`{type: Hostname, address: other}]}
`), 0o600)).To(Succeed())
	}
	metrics := newMetrics(prometheus.NewRegistry())
	log := funcr.New(func(string, string) {}, funcr.Options{})
	e := newEnforcer(&told{}, Options{Node: "node", Log: log, Ruleset: ruleset.Options{TunnelPort: 8472}}, metrics, nil)
	m := &Manifests{path: folder, enforcer: e, log: log, metrics: metrics}
	known := func() string {
		g.Expect(m.Reload()).To(Succeed())
		g.Expect(e.commit()).To(Succeed())
		return e.table.Text()
	}
	write("{type: InternalIP, address: 192.0.2.2}, ")
	before := known()
	g.Expect(before).To(ContainSubstring("192.0.2.2"))
	write("")
	g.Expect(known()).To(Equal(before))
	n := &Network{node: "node", enforcer: e}
	g.Expect(texts(n.world().others[0].Addrs)).To(Equal([]string{"192.0.2.2"}))
	write("{type: InternalIP, address: 192.0.2.7}, ")
	g.Expect(known()).To(And(ContainSubstring("192.0.2.7"), Not(ContainSubstring("192.0.2.2"))))
}
