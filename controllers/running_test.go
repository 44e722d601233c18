package controllers_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/logbook"
)

// running is an agent at work.
type running struct {
	*controllers.Agent
	registry *prometheus.Registry
	health   string
	log      *logbook.Book

	cancel context.CancelFunc
	done   chan struct{}
	ended  error
}

// run starts an agent, which ends with the spec at the latest. With an API server it has
// a Node there, as every agent that kubelet has started.
func run(kernel controllers.Kernel, o controllers.Options) *running {
	GinkgoHelper()
	if o.API != nil {
		nodeNamed(o.Node)
	}
	r := &running{registry: prometheus.NewRegistry(), health: freeAddress(), log: &logbook.Book{Also: GinkgoWriter}, done: make(chan struct{})}
	o.Registry, o.HealthAddress, o.MetricsAddress, o.Log = r.registry, r.health, "0", r.log.Logger()
	var err error
	r.Agent, err = controllers.NewAgent(kernel, o)
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		r.ended = r.Start(ctx)
	}()
	DeferCleanup(r.stop)
	return r
}

// stop ends the agent as SIGTERM does. It may be called again.
func (r *running) stop() {
	GinkgoHelper()
	r.cancel()
	Eventually(r.done, soon, often).Should(BeClosed(), "the agent must stop")
	Expect(r.ended).NotTo(HaveOccurred())
}

// freeAddress is one that nobody listens on, most likely for a while.
func freeAddress() string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer listener.Close()
	return listener.Addr().String()
}

// get asks the health server; 0 if nobody answers.
func (r *running) get(path string) int {
	response, err := http.Get("http://" + r.health + path)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func (r *running) healthz() int { return r.get("/healthz") }
func (r *running) readyz() int  { return r.get("/readyz") }

// awaitReady waits for the first commit.
func (r *running) awaitReady() {
	GinkgoHelper()
	Eventually(r.readyz, soon, often).Should(Equal(http.StatusOK), "the agent must become ready")
}

// metric is the value of a counter or gauge with these labels ("key=value");
// -1 if there is none.
func (r *running) metric(name string, labels ...string) float64 {
	families, err := r.registry.Gather()
	if err != nil {
		return -1
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var has []string
			for _, label := range metric.GetLabel() {
				has = append(has, label.GetName()+"="+label.GetValue())
			}
			if strings.Join(has, ",") == strings.Join(labels, ",") {
				return metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// metricOf is metric as a function, for Eventually.
func (r *running) metricOf(name string, labels ...string) func() float64 {
	return func() float64 { return r.metric(name, labels...) }
}

// recorder is a Kernel that notes the plans it carries out, and lets another
// carry them out; by itself it is a kernel that nothing goes through.
type recorder struct {
	next controllers.Kernel
	// before runs before the n-th call, counted from 1, and may fail it.
	before func(n int) error
	// will says whether the kernel will have a plan; nil: it will have any.
	will func(nft.Plan) error

	mu     sync.Mutex
	calls  int
	checks int
	done   []nft.Plan
}

// Apply implements controllers.Kernel.
func (k *recorder) Apply(plan nft.Plan) error {
	k.mu.Lock()
	k.calls++
	n := k.calls
	k.mu.Unlock()
	if k.before != nil {
		if err := k.before(n); err != nil {
			return err
		}
	}
	if k.will != nil {
		if err := k.will(plan); err != nil {
			return err
		}
	}
	if k.next != nil {
		if err := k.next.Apply(plan); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done = append(k.done, plan)
	return nil
}

// Check implements controllers.Kernel.
func (k *recorder) Check(plan nft.Plan) error {
	k.mu.Lock()
	k.checks++
	k.mu.Unlock()
	if k.will != nil {
		if err := k.will(plan); err != nil {
			return err
		}
	}
	if k.next != nil {
		return k.next.Check(plan)
	}
	return nil
}

// checked is how often Check has been called.
func (k *recorder) checked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.checks
}

// attempts is how often Apply has been called, whatever came of it.
func (k *recorder) attempts() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls
}

// plans are those carried out so far.
func (k *recorder) plans() []nft.Plan {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]nft.Plan(nil), k.done...)
}
