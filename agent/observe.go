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
// somebody observes, as far as the kernel tells of them. The source has the policies that have nearly allowed
// what was denied.
func (a *Agent) observe(cluster *controllers.Source) (err error) {
	o := a.options
	names := observer.ModelNames{Holders: a.Enforcer}
	tell := func(f *flows.Flow) { a.Flows.Add(f) }
	none := func() uint64 { return 0 }
	told, lost, connectionsLost, without := none, none, none, none
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
		var policies observer.Policies = cluster
		if a.Manifests != nil {
			policies = a.Manifests
		}
		misses := observer.NewMisses(observer.NewNearest(a.Enforcer, policies).Of, tell)
		denials := observer.NewDenials(observer.DenialsOptions{
			Node: o.Node, Open: o.Denials, DenialOf: a.Enforcer.DenialOf, LinkName: linkName, Names: names, Tell: misses.Tell, Log: o.Log.WithName("denials"),
		})
		told, lost, without, err = denials.Told, denials.Lost, misses.Without, errors.Join(err, a.Add(misses), a.Add(denials))
	}
	counted := func(name, help string, n func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n()) })
	}
	o.Registry.MustRegister(
		counted("podfence_denials_told_total", "Denied packets that the kernel has told the agent of, the first of each flow: what kubectl podfence observe shows.", told),
		counted("podfence_denials_lost_total", "Denied packets that the kernel has told of faster than the agent could read.", lost),
		counted("podfence_denials_without_near_miss_total", "Denied packets that were told before the agent knew whether a rule has nearly allowed them: there were too many, or the policies are too large.", without),
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
