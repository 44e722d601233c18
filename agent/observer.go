package agent

import (
	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/controllers/observer"
)

// DefaultObserveFlows is how many of the last flows are kept, unless Options say otherwise.
const DefaultObserveFlows = 4096

// keepFlows makes the store of what was last seen of denied packets and of connections. It comes before all who
// add to it or read it.
func (a *Agent) keepFlows() {
	size := a.options.ObserveFlows
	if size == 0 {
		size = DefaultObserveFlows
	}
	a.Flows = observer.NewStore(size, nil)
}

// logDrops has the manager write the drop log. The source says which namespaces ask for it.
func (a *Agent) logDrops(cluster *controllers.Source) error {
	o := a.options.DropLog
	if a.Manifests != nil {
		o.Wants = a.Manifests.WantsDropLog
	} else {
		o.Wants = cluster.WantsDropLog
	}
	return a.Add(observer.NewDropLog(a.Flows, o, a.options.Registry, a.options.Log.WithName("droplog")))
}
