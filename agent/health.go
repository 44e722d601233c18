package agent

import (
	"fmt"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/podfence/podfence/controllers/attachments"
	"github.com/podfence/podfence/controllers/report"
)

// checkHealth adds the checks for conditions that nobody sets, and makes all checks once, before
// anybody can find the agent ready. plugin is nil if no plugin is served.
func (a *Agent) checkHealth(plugin *attachments.Server) {
	health := a.report.Health
	health.Watch(report.CommitFailed, a.Enforcer.CommitFailure)
	health.Watch(report.NodeUnknown, a.nodeKnown)
	if plugin != nil && plugin.Bridge != nil && plugin.Bridge.Find != nil {
		health.Watch(report.ModeChanged, plugin.ConnectedOtherwise)
	}
	health.Check()
}

// waitingSince returns since when each pod waits whose ADD has failed; nil if no plugin is served.
func waitingSince(plugin *attachments.Server) func() []time.Time {
	if plugin == nil {
		return nil
	}
	return func() (since []time.Time) {
		for _, w := range plugin.Waiting() {
			since = append(since, w.Since)
		}
		return since
	}
}

// serveHealth has the manager answer /healthz, while the process lives, and /readyz,
// while the node is healthy too.
func (a *Agent) serveHealth() error {
	address := a.options.HealthAddress
	if address == "0" || address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/readyz", a.report.Health)
	return a.Add(&manager.Server{Name: "health", Server: &http.Server{
		Addr: address, Handler: mux, MaxHeaderBytes: 1 << 20, IdleTimeout: 90 * time.Second, ReadHeaderTimeout: 30 * time.Second,
	}})
}
