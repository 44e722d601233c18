package report

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// nodeMetrics are those of a node that are read when somebody asks for them.
type nodeMetrics struct {
	procSys string             // empty: sysctls cannot be read
	waiting func() []time.Time // nil: no CNI plugin asks
	now     func() time.Time
}

// NodeMetrics are the metrics of a node that are read when somebody asks for them. procSys is where sysctls
// of the node's network namespace are; empty: nowhere. waiting is since when each pod waits whose ADD has
// failed; nil: no CNI plugin asks this agent.
func NodeMetrics(procSys string, waiting func() []time.Time) prometheus.Collector {
	return &nodeMetrics{procSys: procSys, waiting: waiting, now: time.Now}
}

var (
	conntrackDescription = prometheus.NewDesc("podfence_conntrack_entries",
		"Connections that connection tracking knows in the node's network namespace, whoever has begun them. Absent where that cannot be read.", nil, nil)
	conntrackMaxDescription = prometheus.NewDesc("podfence_conntrack_max",
		"How many it can know (net.netfilter.nf_conntrack_max): above that, packets that begin others are dropped. Absent where that cannot be read.", nil, nil)
	podsWaitingDescription = prometheus.NewDesc("podfence_pods_waiting",
		"Pods whose ADD has failed, and is tried again. Absent where the agent serves no CNI plugin.", nil, nil)
	podsWaitingSecondsDescription = prometheus.NewDesc("podfence_pods_waiting_seconds",
		"For how long the one of them waits that has waited longest; 0 if there is none.", nil, nil)
)

// Describe implements prometheus.Collector.
func (n *nodeMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, description := range []*prometheus.Desc{conntrackDescription, conntrackMaxDescription, podsWaitingDescription, podsWaitingSecondsDescription} {
		to <- description
	}
}

// Collect implements prometheus.Collector.
func (n *nodeMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(description *prometheus.Desc, value float64) {
		to <- prometheus.MustNewConstMetric(description, prometheus.GaugeValue, value)
	}
	if n.procSys != "" {
		for setting, description := range map[string]*prometheus.Desc{"nf_conntrack_count": conntrackDescription, "nf_conntrack_max": conntrackMaxDescription} {
			if value, err := n.sysctl("net/netfilter/" + setting); err == nil {
				gauge(description, value)
			}
		}
	}
	if n.waiting == nil {
		return
	}
	since, longest := n.waiting(), time.Duration(0)
	for _, began := range since {
		longest = max(longest, n.now().Sub(began))
	}
	gauge(podsWaitingDescription, float64(len(since)))
	gauge(podsWaitingSecondsDescription, longest.Seconds())
}

// sysctl reads a setting that is a number.
func (n *nodeMetrics) sysctl(name string) (float64, error) {
	text, err := os.ReadFile(filepath.Join(n.procSys, name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
}
