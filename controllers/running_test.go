package controllers_test

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/enforcer"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/test/logbook"
)

// running is an agent at work.
type running struct {
	*agent.Agent
	registry *prometheus.Registry
	health   string
	log      *logbook.Book

	cancel context.CancelFunc
	done   chan struct{}
	ended  error
}

// run starts an agent, which ends with the spec at the latest. With an API server it has
// a Node there, as every agent that kubelet has started.
func run(kernel enforcer.Kernel, o agent.Options) *running {
	GinkgoHelper()
	if o.API != nil {
		nodeNamed(o.Node)
	}
	r := &running{registry: prometheus.NewRegistry(), health: freeAddress(), log: &logbook.Book{Also: GinkgoWriter}, done: make(chan struct{})}
	o.Registry, o.HealthAddress, o.MetricsAddress, o.Log = r.registry, r.health, "0", r.log.Logger()
	var err error
	r.Agent, err = agent.New(kernel, o)
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
