package agent

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/podfence/podfence/controllers/enforcer"
	learner "github.com/podfence/podfence/controllers/names"
	"github.com/podfence/podfence/controllers/resolvers"
	"github.com/podfence/podfence/names/resolver"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// DNS says whose answers say which addresses the domain names of policies have.
type DNS struct {
	// Service is the cluster's DNS Service; the zero Key: there is none. Servers are more resolvers, as pods write their
	// addresses.
	Service policy.Key
	Servers []netip.AddrPort
	// MinTTL is for how long an answer counts at least.
	MinTTL time.Duration
	// Queue is the nfqueue in which replies wait, and the nflog group of queries; 0: what pods are told is not learned.
	Queue uint16
	// Kernel is where DNS is handed over; nil: nowhere, Unsupported says why if that is for want of something.
	Kernel      *learner.Kernel
	Unsupported error
	// Remembered is what an agent before has learned, as the kernel has it.
	Remembered map[string][]nft.TimedElement
}

// openNames opens what domain names are learned by. Without it the others are enforced all the same.
func (h *Host) openNames(o *Options, n *Node, tables kernel.Options) (err error) {
	netns := kernel.Options{NetNS: tables.NetNS}
	if o.DNS.Remembered, err = kernel.TimedSets(netns, ruleset.DomainSet); err != nil {
		o.Log.Error(err, "Cannot read what an agent before has learned of domain names; pods have to ask again")
	}
	table, err := kernel.Open(kernel.Options{NetNS: tables.NetNS, Table: nft.NamesTableName, Queue: o.DNS.Queue != 0, Own: tables.Own})
	if errors.Is(err, kernel.ErrUnsupported) {
		o.DNS.Unsupported = err
		return nil
	}
	if err != nil {
		return err
	}
	n.add(table.Close)
	// An agent before may have left its table.
	if err := table.Uninstall(); err != nil {
		return err
	}
	if o.DNS.Queue == 0 {
		return nil
	}
	o.DNS.Kernel = &learner.Kernel{
		Table: table, Queue: o.DNS.Queue,
		OpenQueue: func() (learner.Queue, error) {
			queue, err := kernel.OpenQueue(netns, o.DNS.Queue, waitingReplies)
			if err != nil {
				return nil, err
			}
			return queue, nil
		},
		OpenQueries: func() (learner.Queries, error) {
			queries, err := kernel.OpenDatagrams(netns, o.DNS.Queue)
			if err != nil {
				return nil, err
			}
			return queries, nil
		},
		OpenHeartbeat: func() (learner.Heartbeat, error) {
			heartbeat, err := kernel.OpenHeartbeat(netns)
			if err != nil {
				return nil, err
			}
			return heartbeat, nil
		},
	}
	return nil
}

// waitingReplies is how many replies wait at most; of more, those that come last go on at once, and are not learned.
const waitingReplies = 1024

// learnNames has the manager learn which addresses domain names have: what pods are told, and, of names that are no
// wildcards, what the agent is told itself. It returns what is to be told of commits.
func (a *Agent) learnNames() (committed func(enforcer.Committed), err error) {
	o := a.options
	own := resolver.New(resolver.Options{Sink: func(all []policy.Resolution) {
		if change := policy.Resolved(all); !a.Enforcer.Knows(change) {
			a.Enforcer.Feed(change)
		}
	}})
	var watched *resolvers.Watcher
	names := learner.NewLearner(learner.Options{
		Enforcer: a.Enforcer, Kernel: o.DNS.Kernel, Wanted: sync.OnceFunc(func() {
			if o.DNS.Unsupported != nil {
				o.Log.Error(o.DNS.Unsupported, "This kernel cannot hold answers of DNS: of domain names in policies only those without * are known, which the agent resolves itself")
			}
			watched.Want()
		}), Exact: own.SetNames, MinTTL: o.DNS.MinTTL, Log: o.Log.WithName("names"),
	})
	watched = resolvers.New(resolvers.Options{
		API: o.API, Service: o.DNS.Service, Others: o.DNS.Servers, Log: o.Log.WithName("resolvers"),
		Sink: func(all []netip.AddrPort) {
			own.SetResolvers(all)
			names.SetResolvers(all)
		},
	})
	o.Registry.MustRegister(names.Metrics()...)
	return names.Committed, errors.Join(a.Add(own), a.Add(watched), a.Add(names))
}
