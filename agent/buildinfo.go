package agent

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// buildInfo is the metric that says what runs here, by its labels.
func buildInfo(o Options) prometheus.Collector {
	cni, source := "none", "api"
	switch {
	case o.CNI != nil && o.CNI.Bridge != nil:
		cni = "bridge"
	case o.CNI != nil:
		cni = "chained"
	}
	if o.API == nil {
		source = "manifests"
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "podfence_build_info", Help: "1: the version that runs, what it was compiled with, what it does for the CNI plugin (bridge, chained, none), and where its objects come from (api, manifests).",
		ConstLabels: prometheus.Labels{"version": o.Version, "goversion": runtime.Version(), "cni": cni, "source": source},
	})
	info.Set(1)
	return info
}
