package agent

import (
	"cmp"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/controllers/observer"
)

// DefaultObserveFlows is how many of the last flows are kept, unless Options say otherwise.
const DefaultObserveFlows = 4096

// observe makes the store of flows, and has the manager tell it of denied packets, and of connections while
// somebody observes, as far as the kernel tells of them.
func (a *Agent) observe() (err error) {
	o := a.options
	names := observer.ModelNames{Holders: a.Enforcer}
	if o.CNI.bridge() != nil {
		names.GatewayAt = a.Enforcer.GatewayAt
	}
	tell := func(f *flows.Flow) { a.Flows.Add(f) }
	none := func() uint64 { return 0 }
	told, lost, connectionsLost := none, none, none
	var observing func(bool)
	if o.Connections != nil {
		connections := observer.NewConnections(observer.ConnectionsOptions{
			Node: o.Node, Events: o.Connections, Names: names, AllowedBy: a.Enforcer.Allowances(), Tell: tell, Log: o.Log.WithName("connections"),
		})
		observing, connectionsLost, err = connections.Observing, connections.Lost, a.Add(connections)
	}
	a.Flows = observer.NewStore(cmp.Or(o.ObserveFlows, DefaultObserveFlows), observing)
	if o.Denials != nil {
		linkName := o.LinkName
		if linkName == nil {
			linkName = func(int) string { return "" }
		}
		denials := observer.NewDenials(observer.DenialsOptions{
			Node: o.Node, Open: o.Denials, DenialOf: a.Enforcer.DenialOf, LinkName: linkName, Names: names, Tell: tell, Log: o.Log.WithName("denials"),
		})
		told, lost, err = denials.Told, denials.Lost, errors.Join(err, a.Add(denials))
	}
	counted := func(name, help string, n func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n()) })
	}
	o.Registry.MustRegister(
		counted("podfence_denials_told_total", "Denied packets that the kernel has told the agent of, the first of each flow: what kubectl podfence observe shows.", told),
		counted("podfence_denials_lost_total", "Denied packets that the kernel has told of faster than the agent could read.", lost),
		counted("podfence_connections_lost_total", "Beginnings and ends of connections that came faster than they could be told to those who observe.", connectionsLost),
	)
	return err
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
