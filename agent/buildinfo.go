package agent

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// buildInfo is the metric that says what runs here, by its labels.
func buildInfo(o Options) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "podfence_build_info", Help: "1: the version that runs, what it was compiled with, what it does for the CNI plugin (bridge, chained, none), and where its objects come from (api, manifests).",
		ConstLabels: prometheus.Labels{"version": o.Version, "goversion": runtime.Version(), "cni": string(o.connect()), "source": o.source()},
	})
	info.Set(1)
	return info
}

// connect is how the pods are connected.
func (o *Options) connect() Connect {
	switch {
	case o.CNI == nil:
		return ConnectNone
	case o.CNI.Bridge != nil:
		return ConnectBridge
	}
	return ConnectChained
}

// source is where objects come from.
func (o *Options) source() string {
	if o.API == nil {
		return "manifests"
	}
	return "api"
}
