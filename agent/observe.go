package agent

import (
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// flowsKept is how many of the last flows are kept for whoever observes.
const flowsKept = 4096

// observe makes the store of flows, and has the manager tell it of connections while somebody observes; if
// connections cannot be observed, or nobody knows names for them, it does not.
func (a *Agent) observe() error {
	o := a.options
	if o.Connections == nil || o.Names == nil {
		a.Flows = observer.NewStore(flowsKept, nil)
		return nil
	}
	connections := observer.NewConnections(observer.ConnectionsOptions{
		Node: o.Node, Events: o.Connections, Names: o.Names, AllowedBy: a.Enforcer.Allowances(),
		Tell: func(f *flows.Flow) { a.Flows.Add(f) }, Log: o.Log.WithName("connections"),
	})
	a.Flows = observer.NewStore(flowsKept, connections.Observing)
	return a.Add(connections)
}
