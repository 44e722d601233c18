package names

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what was learned, held and ignored.
type metrics struct {
	held                 prometheus.Histogram
	late, lost, failures prometheus.Counter
	ignored              *prometheus.CounterVec
	answers              prometheus.Counter
}

func newMetrics() metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return metrics{
		held: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "podfence_dns_hold_duration_seconds", Help: "For how long replies of DNS with new addresses waited until these were in the kernel.",
			Buckets: []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1},
		}),
		late:    counter("podfence_dns_held_too_long_total", "Replies of DNS that went on before their addresses were in the kernel, because that took too long."),
		lost:    counter("podfence_dns_queries_lost_total", "Queries of DNS that the kernel has told of faster than the agent could read: their answers do not count."),
		answers: counter("podfence_dns_answers_total", "Answers of DNS that said which addresses a domain name of a policy has."),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podfence_dns_ignored_total", Help: "Replies of DNS to pods with domain names in their policies that say nothing that counts, by reason.",
		}, []string{"reason"}),
		failures: counter("podfence_dns_failures_total", "Times that what pods are told by DNS could not be learned, as the log says."),
	}
}

// Metrics are the learner's. evicted is how many resolutions there was no room for, and resolutions how many there are.
func (l *Learner) Metrics(resolutions func() (names, addresses int), evicted func() int) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		l.metrics.held, l.metrics.late, l.metrics.lost, l.metrics.answers, l.metrics.ignored, l.metrics.failures,
		gauge("podfence_dns_pods", "Addresses of pods of this node that policies with domain names are about.", func() float64 { return float64(len(*l.namers.Load())) }),
		gauge("podfence_dns_names", "Domain names that are resolved to some address.", func() float64 { names, _ := resolutions(); return float64(names) }),
		gauge("podfence_dns_addresses", "Addresses that domain names are resolved to, for each pod that was told so.", func() float64 { _, addresses := resolutions(); return float64(addresses) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "podfence_dns_evicted_total", Help: "Addresses of domain names that there was no room for: connections to them are denied until they are resolved again.",
		}, func() float64 { return float64(evicted()) }),
	}
}
