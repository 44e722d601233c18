package names

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/names/dns"
)

// metrics are what was learned, held and ignored.
type metrics struct {
	held                          prometheus.Histogram
	late, lost, failures, answers prometheus.Counter
	ignored                       *prometheus.CounterVec
	// pods is how many addresses of pods are learned for.
	pods prometheus.Gauge
}

func (m *metrics) answer()                    { m.answers.Inc() }
func (m *metrics) heldFor(time time.Duration) { m.held.Observe(time.Seconds()) }
func (m *metrics) heldTooLong()               { m.late.Inc() }
func (m *metrics) lostQueries(n int)          { m.lost.Add(float64(n)) }
func (m *metrics) failed()                    { m.failures.Inc() }
func (m *metrics) learnFor(pods int)          { m.pods.Set(float64(pods)) }

func (m *metrics) ignore(reasons []dns.Reason) {
	for _, why := range reasons {
		m.ignored.WithLabelValues(why.String()).Inc()
	}
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
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
		pods:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "podfence_dns_pods", Help: "Addresses of pods of this node that policies with domain names are about."}),
		failures: counter("podfence_dns_failures_total", "Times that what pods are told by DNS could not be learned, as the log says."),
	}
}

// collectors are all, with what the enforcer counts: how many names are resolved, and to how many addresses, and how many
// there was no room for.
func (m *metrics) collectors(e Enforcer) []prometheus.Collector {
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	return []prometheus.Collector{
		m.held, m.late, m.lost, m.answers, m.ignored, m.failures, m.pods,
		gauge("podfence_dns_names", "Domain names that are resolved to some address.", func() int { names, _ := e.Resolved(); return names }),
		gauge("podfence_dns_addresses", "Addresses that domain names are resolved to, for each pod that was told so.", func() int { _, addresses := e.Resolved(); return addresses }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "podfence_dns_evicted_total", Help: "Addresses of domain names that there was no room for: connections to them are denied until they are resolved again.",
		}, func() float64 { return float64(e.Evicted()) }),
	}
}
