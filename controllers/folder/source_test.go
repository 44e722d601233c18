package folder_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/folder"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/recorder"
)

// TestInternalIPLost: a Node in a folder loses its InternalIP for a while: the tunnel's rules
// know it all the same, as the routes do.
func TestInternalIPLost(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(addresses string) {
		g.Expect(os.WriteFile(filepath.Join(dir, "nodes.yaml"), []byte(`
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
	var nodes map[string]policy.Node
	kernel := &recorder.Kernel{}
	e := enforcer.New(kernel, enforcer.Options{Node: "node", Ruleset: ruleset.Options{TunnelPort: 8472}, Report: func(o enforcer.Outcome) {
		c, is := o.(enforcer.Committed)
		if is && c.Intent != nil {
			nodes = maps.Clone(c.Intent.Nodes)
		} else if is {
			for name, node := range c.Delta.Nodes {
				nodes[name] = *node
			}
		}
	}})
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- e.Start(ctx) }()
	defer func() { cancel(); <-ended }()
	reports := report.New(report.Options{Node: "node", Log: logr.Discard(), Registry: prometheus.NewRegistry()})
	m := folder.NewSource(folder.SourceOptions{Path: dir, Enforcer: e, Report: reports, Log: logr.Discard()})
	known := func() []netip.Addr {
		g.Expect(m.Reload()).To(Succeed())
		g.Expect(e.Sync(t.Context())).To(Succeed())
		return nodes["other"].Addrs
	}
	write("{type: InternalIP, address: 192.0.2.2}, ")
	g.Expect(known()).To(Equal([]netip.Addr{netip.MustParseAddr("192.0.2.2")}))
	write("")
	g.Expect(known()).To(Equal([]netip.Addr{netip.MustParseAddr("192.0.2.2")}))
	g.Expect(kernel.Holds("delete element inet podfence nodes-4 { 192.0.2.2 }")).To(BeFalse())
	write("{type: InternalIP, address: 192.0.2.7}, ")
	g.Expect(known()).To(Equal([]netip.Addr{netip.MustParseAddr("192.0.2.7")}))
	g.Expect(kernel.Holds("delete element inet podfence nodes-4 { 192.0.2.2 }")).To(BeTrue())
}

// TestClusterPolicies: a ClusterNetworkPolicy in a folder is fed as any other policy is, and goes
// with its file.
func TestClusterPolicies(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, text string) {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	write("pod.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: node}
status: {phase: Running, podIPs: [{ip: 10.9.0.2}]}
`)
	write("policy.yaml", `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: metadata}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - action: Deny
    to: [{networks: [169.254.169.254/32]}]
`)
	policies := map[policy.Key]bool{}
	e := enforcer.New(&recorder.Kernel{}, enforcer.Options{Node: "node", Report: func(o enforcer.Outcome) {
		c, is := o.(enforcer.Committed)
		if is && c.Intent != nil {
			for key := range c.Intent.Policies {
				policies[key] = true
			}
		} else if is {
			for key, changed := range c.Delta.Policies {
				policies[key] = changed != nil
			}
		}
	}})
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- e.Start(ctx) }()
	defer func() { cancel(); <-ended }()
	reports := report.New(report.Options{Node: "node", Log: logr.Discard(), Registry: prometheus.NewRegistry()})
	m := folder.NewSource(folder.SourceOptions{Path: dir, Enforcer: e, Report: reports, Log: logr.Discard()})
	g.Expect(m.Reload()).To(Succeed())
	g.Expect(e.Sync(t.Context())).To(Succeed())
	g.Expect(policies).To(HaveKeyWithValue(policy.Key{Name: "metadata"}, true))

	g.Expect(os.Remove(filepath.Join(dir, "policy.yaml"))).To(Succeed())
	g.Expect(m.Reload()).To(Succeed())
	g.Expect(e.Sync(t.Context())).To(Succeed())
	g.Expect(policies).To(HaveKeyWithValue(policy.Key{Name: "metadata"}, false))
}

// TestEnforcementIsMeasured: of policies in a folder that come or change, and of no others, it is measured how
// long it takes until they are in the kernel, from when the folder was read.
func TestEnforcementIsMeasured(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, text string) {
		g.Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
	}
	policyNamed := func(name string, port int) {
		write(name+".yaml", fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: shop}
spec: {podSelector: {}, ingress: [{ports: [{port: %d}]}]}
`, name, port))
	}
	write("pod.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: node}
status: {phase: Running, podIPs: [{ip: 10.9.0.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
`)
	policyNamed("first", 80)
	policyNamed("same", 80)
	registry := prometheus.NewRegistry()
	reports := report.New(report.Options{Node: "node", Log: logr.Discard(), Registry: registry})
	e := enforcer.New(&recorder.Kernel{}, enforcer.Options{Node: "node", Report: reports.Report})
	reports.Of(e)
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- e.Start(ctx) }()
	defer func() { cancel(); <-ended }()
	m := folder.NewSource(folder.SourceOptions{Path: dir, Enforcer: e, Report: reports, Log: logr.Discard()})
	measured := func() map[string]uint64 {
		g.Expect(m.Reload()).To(Succeed())
		g.Expect(e.Sync(t.Context())).To(Succeed())
		families, err := registry.Gather()
		g.Expect(err).NotTo(HaveOccurred())
		counts := map[string]uint64{}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				if family.GetName() == "podfence_policy_enforcement_seconds" {
					counts[metric.GetLabel()[0].GetValue()] = metric.GetHistogram().GetSampleCount()
				}
			}
		}
		return counts
	}
	g.Expect(measured()).To(HaveKeyWithValue("watch", uint64(0)), "what there is at the start")
	policyNamed("first", 81)
	g.Expect(measured()).To(Equal(map[string]uint64{"watch": 1, "change": 0}))
	policyNamed("second", 80)
	g.Expect(measured()).To(Equal(map[string]uint64{"watch": 2, "change": 0}))
	g.Expect(measured()).To(Equal(map[string]uint64{"watch": 2, "change": 0}), "nothing has changed")
}
