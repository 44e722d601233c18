package agent

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
	names := a.names()
	tell, err := a.nameServices(names)
	if err != nil {
		return err
	}
	told, lost, connectionsLost, without := none, none, none, none
	var observing func(bool)
	if o.Connections != nil {
		connections := observer.NewConnections(observer.ConnectionsOptions{
			Node: o.Node, Events: o.Connections, Names: names, Resolutions: a.Enforcer, AllowedBy: a.Enforcer.Allowances(), Tell: tell, Log: o.Log.WithName("connections"),
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
		misses := observer.NewMisses(observer.NewNearest(a.Enforcer, policies, a.Enforcer).Of, tell)
		a.denials = observer.NewDenials(observer.DenialsOptions{
			Node: o.Node, Open: o.Denials, DenialOf: a.Enforcer.DenialOf, WouldBe: a.Enforcer.WouldBe, LinkName: linkName, Names: names, Resolutions: a.Enforcer, Repeats: o.Repeats, Tell: misses.Tell, Log: o.Log.WithName("denials"),
		})
		told, lost, without, err = a.denials.Told, a.denials.Lost, misses.Without, errors.Join(err, a.Add(misses), a.Add(a.denials))
	}
	o.Registry.MustRegister(
		counted("podfence_denials_told_total", "Packets of which the kernel has told the agent, the first of each flow, that were denied, or would be by staged policies: what kubectl podfence observe shows.", told),
		counted("podfence_denials_lost_total", "Denied packets that the kernel has told of faster than the agent could read.", lost),
		counted("podfence_denials_without_near_miss_total", "Denied packets that were told before the agent knew whether a rule has nearly allowed them: there were too many, or the policies are too large.", without),
		counted("podfence_connections_lost_total", "Beginnings and ends of connections that came faster than they could be told to those who observe.", connectionsLost),
	)
	return err
}

// names say who has an address.
func (a *Agent) names() observer.ModelNames {
	names := observer.ModelNames{Holders: a.Enforcer}
	if a.options.CNI.bridge() != nil {
		names.GatewayAt = a.Enforcer.GatewayAt
	}
	return names
}

// counted is a counter of the metrics.
func counted(name, help string, n func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n()) })
}

// nameServices returns what adds a flow to the store, with the name of the Service that it has asked for. A folder
// has no addresses of Services, so that there they have no names.
func (a *Agent) nameServices(names observer.Names) (tell func(*flows.Flow), err error) {
	o := a.options
	tell = func(f *flows.Flow) { a.Flows.Add(f) }
	answered, failed := none, none
	if o.API != nil {
		const unlimited, burst = -1, 0 // Naming bounds how often it asks, and does not wait for its turn
		own, err := ownClient(o.API, client.Options{Scheme: a.GetScheme(), Mapper: a.GetRESTMapper()}, unlimited, burst)
		if err != nil {
			return nil, fmt.Errorf("setting up the client for Services: %w", err)
		}
		naming := observer.NewNaming(observer.NamingOptions{Services: controllers.NewServices(own), Names: names, Tell: tell, Log: o.Log.WithName("services")})
		if err := a.Add(naming); err != nil {
			return nil, err
		}
		tell, answered, failed = naming.Tell, naming.Answered, naming.Failed
	}
	o.Registry.MustRegister(
		counted("podfence_service_lookups_total", "Times that the API server has told which Services flows have asked for.", answered),
		counted("podfence_service_lookups_failed_total", "Times that the API server could not be asked which Services flows have asked for, or has refused to say; these flows are told without the names.", failed),
	)
	return tell, nil
}

// none counts nothing.
func none() uint64 { return 0 }

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
