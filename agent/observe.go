package agent

import (
	"cmp"
	"errors"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/controllers/observer"
)

// DefaultObserveFlows is how many of the last flows are kept, unless Options say otherwise.
const DefaultObserveFlows = 4096

// observe makes the store of flows, and has the manager tell it of denied packets, and of connections while
// somebody observes, as far as the kernel tells of them.
func (a *Agent) observe() error {
	o := a.options
	names := observer.ModelNames{Holders: a.Enforcer}
	tell := func(f *flows.Flow) { a.Flows.Add(f) }
	var observing func(bool)
	var err error
	if o.Connections != nil {
		connections := observer.NewConnections(observer.ConnectionsOptions{
			Node: o.Node, Events: o.Connections, Names: names, AllowedBy: a.Enforcer.Allowances(), Tell: tell, Log: o.Log.WithName("connections"),
		})
		observing, err = connections.Observing, a.Add(connections)
	}
	a.Flows = observer.NewStore(cmp.Or(o.ObserveFlows, DefaultObserveFlows), observing)
	if o.Denials == nil {
		return err
	}
	if o.LinkName == nil {
		o.LinkName = func(int) string { return "" }
	}
	return errors.Join(err, a.Add(observer.NewDenials(observer.DenialsOptions{
		Node: o.Node, Open: o.Denials, DenialOf: a.Enforcer.DenialOf, LinkName: o.LinkName, Names: names, Tell: tell, Log: o.Log.WithName("denials"),
	})))
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
