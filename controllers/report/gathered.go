package report

import (
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/policy"
)

// gathered are the metrics that are worked out when somebody asks for them.
type gathered struct {
	counts func() policy.Counts
	drops  func() (map[string]uint64, error) // nil: the kernel counts nothing
	log    logr.Logger
}

// Gathered are the metrics that are worked out when somebody asks for them. drops are how many
// packets the kernel's table has dropped, by reason; nil: not known.
func (r *Reporter) Gathered(drops func() (map[string]uint64, error), log logr.Logger) prometheus.Collector {
	return &gathered{counts: func() policy.Counts { return r.enforcer.Counts() }, drops: drops, log: log}
}

var (
	podsDescription = prometheus.NewDesc("podfence_pods",
		"Pods of this node that are fenced, by whether a policy selects them (isolated).", []string{"isolated"}, nil)
	policiesDescription = prometheus.NewDesc("podfence_policies",
		"NetworkPolicies and ClusterNetworkPolicies of the cluster, by whether they select a pod of this node (active).", []string{"active"}, nil)
	dropsDescription = prometheus.NewDesc("podfence_dropped_packets_total",
		"Packets that were dropped whatever the policies say, by reason: the comment of the rule in the kernel's table. A table that is replaced, as when an agent starts, counts from 0.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (g *gathered) Describe(to chan<- *prometheus.Desc) {
	for _, description := range []*prometheus.Desc{podsDescription, policiesDescription, dropsDescription} {
		to <- description
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out: the other
// metrics are worth having.
func (g *gathered) Collect(to chan<- prometheus.Metric) {
	gauge := func(description *prometheus.Desc, value int, label string) {
		to <- prometheus.MustNewConstMetric(description, prometheus.GaugeValue, float64(value), label)
	}
	counts := g.counts()
	gauge(podsDescription, counts.Isolated, "true")
	gauge(podsDescription, counts.Pods-counts.Isolated, "false")
	gauge(policiesDescription, counts.Active, "true")
	gauge(policiesDescription, counts.Policies-counts.Active, "false")
	if g.drops == nil {
		return
	}
	drops, err := g.drops()
	if err != nil {
		g.log.Error(err, "Cannot read how many packets were dropped")
		return
	}
	for reason, packets := range drops {
		to <- prometheus.MustNewConstMetric(dropsDescription, prometheus.CounterValue, float64(packets), reason)
	}
}
