package controllers_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync/atomic"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
)

var _ = Describe("Metrics", func() {
	It("say what runs, and what it fences", func(ctx SpecContext) {
		c := newCluster()
		c.namespace("shop", nil)
		runsAt(c.pod("shop", "web", set{"app": "web"}), c.ips(2)...)
		runsAt(c.pod("shop", "db", set{"app": "db"}), c.ips(3)...)
		c.policy("shop", "db", "podSelector: {matchLabels: {app: db}}")
		c.policy("shop", "nobody", "podSelector: {matchLabels: {app: nobody}}")
		var broken atomic.Bool
		started := run(&recorder.Kernel{}, agent.Options{Node: c.node, API: agentUser, Version: "v1.2.3", Drops: func() (map[string]uint64, error) {
			if broken.Load() {
				return nil, errors.New("the kernel says no")
			}
			return map[string]uint64{"no pod known by this address": 7}, nil
		}})
		started.awaitReady()
		Expect(started.metric("podfence_build_info", "cni=none", "goversion="+runtime.Version(), "source=api", "version=v1.2.3")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_pods", "isolated=true")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_pods", "isolated=false")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_policies", "active=true")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_policies", "active=false")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_dropped_packets_total", "reason=no pod known by this address")).To(BeEquivalentTo(7))
		Expect(started.metric("podfence_manifests_valid")).To(BeEquivalentTo(-1), "there are no manifests to be valid")

		broken.Store(true)
		Expect(started.metric("podfence_dropped_packets_total", "reason=no pod known by this address")).To(BeEquivalentTo(-1))
		Expect(started.metric("podfence_pods", "isolated=true")).To(BeEquivalentTo(1), "the others are there all the same")
	})

	It("say how long a policy took to be enforced, and which policies ask to be counted", func(ctx SpecContext) {
		c := newCluster()
		c.namespace("shop", nil)
		runsAt(c.pod("shop", "web", set{"app": "web"}), c.ips(2)...)
		c.policy("shop", "before", "podSelector: {}")
		var started *running
		started = run(&recorder.Kernel{}, agent.Options{Node: c.node, API: agentUser, Counters: func() (nft.Counters, bool, error) {
			rules, held := started.Enforcer.Rules()
			return countersOf(rules.Chains), held, nil
		}})
		started.awaitReady()
		Expect(started.observations("podfence_policy_enforcement_seconds")).To(Equal(map[string]uint64{"change": 0, "watch": 0}), "it was there before the agent")
		c.policy("shop", "elsewhere", "podSelector: {matchLabels: {app: db}}")
		np := c.policy("shop", "web", "podSelector: {matchLabels: {app: web}}")
		Eventually(started.observations, soon, often).WithArguments("podfence_policy_enforcement_seconds").Should(Equal(map[string]uint64{"change": 1, "watch": 1}))
		np.Annotations = map[string]string{report.CountAnnotation: "true", "other": "yes"}
		Expect(admin.Update(ctx, np)).To(Succeed())
		denied := []string{"direction=ingress", "namespace=" + np.Namespace, "policy=web", "verdict=denied"}
		Eventually(started.metricOf("podfence_policy_packets_total", denied...), soon, often).Should(BeEquivalentTo(0))
		Expect(started.observations("podfence_policy_enforcement_seconds")).To(Equal(map[string]uint64{"change": 1, "watch": 1}), "it says what it said before")
	})

	It("are each in docs/METRICS.md, which has no others", func() {
		text, err := os.ReadFile(filepath.Join("..", "docs", "METRICS.md"))
		Expect(err).NotTo(HaveOccurred())
		documented := map[string]string{}
		for _, row := range regexp.MustCompile("(?m)^\\| `(podfence_[a-z_]+)` \\| (.+) \\|$").FindAllSubmatch(text, -1) {
			documented[string(row[1])] = string(row[2])
		}
		registry := &describing{}
		_, err = agent.New(&recorder.Kernel{}, agent.Options{
			Node: "node", Manifests: GinkgoT().TempDir(), MetricsAddress: "0", HealthAddress: "0", Registry: registry, Log: GinkgoLogr,
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(documented).To(Equal(registry.described()))
	})

	It("of manifests are those of an agent that reads them", func() {
		started := run(&recorder.Kernel{}, agent.Options{Node: "node", Manifests: GinkgoT().TempDir()})
		started.awaitReady()
		Expect(started.metric("podfence_manifests_valid")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_build_info", "cni=none", "goversion="+runtime.Version(), "source=manifests", "version=")).To(BeEquivalentTo(1))
	})
})

// describing is a registry that keeps what it is given.
type describing struct {
	prometheus.Registerer
	all []prometheus.Collector
}

func (d *describing) MustRegister(collectors ...prometheus.Collector) {
	d.all = append(d.all, collectors...)
}

var description = regexp.MustCompile(`fqName: "([^"]+)", help: "([^"]+)"`)

// described are the names and the help of all metrics.
func (d *describing) described() map[string]string {
	all := map[string]string{}
	for _, collector := range d.all {
		to := make(chan *prometheus.Desc, 10)
		collector.Describe(to)
		close(to)
		for one := range to {
			fields := description.FindStringSubmatch(one.String())
			all[fields[1]] = fields[2]
		}
	}
	return all
}

// countersOf are counters as the kernel has them whose rules have met no packet.
func countersOf(chains map[string]*nft.Chain) nft.Counters {
	counters := nft.Counters{Table: 1, Chains: map[string][]nft.Counted{}}
	for name, chain := range chains {
		for _, rule := range chain.Rules {
			counters.Chains[name] = append(counters.Chains[name], nft.Counted{Counter: rule.Counter})
		}
	}
	return counters
}

// observations are how often a histogram was observed, by the value of its label.
func (r *running) observations(name string) map[string]uint64 {
	counts := map[string]uint64{}
	families, err := r.registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			counts[metric.GetLabel()[0].GetValue()] = metric.GetHistogram().GetSampleCount()
		}
	}
	return counts
}
