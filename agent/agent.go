package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/controllers/announcements"
	"github.com/podfence/podfence/controllers/answers"
	"github.com/podfence/podfence/controllers/attachments"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/folder"
	"github.com/podfence/podfence/controllers/hubble"
	"github.com/podfence/podfence/controllers/network"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Options are what an agent is told.
type Options struct {
	// Node is the name of the node whose pods it fences.
	Node string
	// API is the API server to watch. Nil: Manifests is the source.
	API *rest.Config
	// Manifests is a folder of YAML.
	Manifests string
	// KeepIfEmpty keeps what is enforced while that folder has no objects.
	KeepIfEmpty bool
	// MetricsAddress and HealthAddress are where to serve; "0": nowhere.
	MetricsAddress, HealthAddress string
	// PprofAddress is where to serve profiles; "0" or empty: nowhere.
	PprofAddress string
	// QueryAddress is where to answer questions about the agent and its node, of loopback addresses
	// only; "0" or empty: nowhere. Query is the kernel that is asked for that; nil: questions about
	// packets are refused.
	QueryAddress string
	// ProcSys is where sysctls of the node's network namespace are read; empty: nowhere.
	ProcSys string
	Query   answers.Kernel
	// OwnsTables: the kernel lets nobody else change the tables. Routing is how packets reach other
	// nodes, where podfence connects the pods; for answers alone.
	OwnsTables bool
	Routing    string
	// Flows is where to cut established flows that policy no longer allows; it
	// needs Ruleset.RevokedMark. Nil: they are left alone.
	Flows Flows
	// Connections tells which connections begin and end; nil: they cannot be observed.
	Connections observer.ConnEvents
	// Denials opens what the kernel tells of denied packets; nil: it tells nothing. It is called again if
	// that has ended. Only one at a time can be open.
	Denials func() (observer.Log, error)
	// Repeats is how many more packets of a told packet's flow were denied since; nil: nobody counts.
	Repeats func(nft.Logged) (uint64, error)
	// LinkName is the name of a link of the node, by its index; nil: nobody knows.
	LinkName func(index int) string
	// DNS says how domain names in policies are resolved.
	DNS DNS
	// OpenFlows are the established flows that go on when the agent comes; nil: see enforcer.Options.
	OpenFlows enforcer.OpenFlows
	// Staged is where what staged policies would do is worked out; nil: nowhere.
	Staged *enforcer.Staged
	// Watch notices what others do to the tables. Nil: nothing does.
	Watch enforcer.Watch
	// PodLinks finds the pods' links where another plugin makes them; it needs
	// Ruleset.Links. Nil: podfence connects the pods.
	PodLinks enforcer.PodLinks
	// CNI says what the agent does for the CNI plugin; nil: nothing, pods are
	// fenced when the API shows their addresses.
	CNI *CNI
	// Ruleset are the choices that change the table.
	Ruleset ruleset.Options
	// LastPodCIDRs are the node's pod ranges as an earlier agent knew them: they stay
	// closed while the Node is away, or has none.
	LastPodCIDRs []netip.Prefix
	// NamespaceBudget is what the policies of one namespace may take of the node, in
	// elements; 0: policy.DefaultBudget.
	NamespaceBudget int
	// IgnorePodCIDRs: the node's pods do not get their addresses from its ranges.
	IgnorePodCIDRs bool
	// PeersFirst says whether a new pod starts only when other nodes have been told its address.
	// Empty: PeersOff.
	PeersFirst PeersFirst
	// Checks look, every few seconds, whether the node is in a condition: an error is
	// why it is.
	Checks map[report.Condition]func() error
	// Clock says when to look for what policies cannot mean. Nil: the machine's does.
	Clock clock.WithTicker
	// Version is the program's, for a metric.
	Version string
	// Drops are how many packets the kernel's table has dropped, by reason. Nil: not
	// known.
	Drops func() (map[string]uint64, error)
	// ObserveFlows is how many of the last flows are kept; 0: DefaultObserveFlows.
	ObserveFlows int
	// DropLog says where denials are logged; its Wants is the source's to say.
	DropLog observer.DropLogOptions
	// Hubble says where to serve Hubble's API.
	Hubble Hubble
	// Counters read what the rules of the policies' table have counted; whole is false if the rules have
	// changed meanwhile. Nil: not known.
	Counters report.ReadCounters
	// FrameCounters do the same for the table of family bridge, with the rules' comments. Nil: there is none.
	FrameCounters report.ReadCounters
	// StagedCounters do the same for the table of staged policies. Nil: not known.
	StagedCounters report.ReadCounters
	// Registry gets the agent's metrics.
	Registry prometheus.Registerer
	Log      logr.Logger
}

// PeersFirst says whether a new pod starts only when other nodes have been told its address.
type PeersFirst string

// What --peers-first can be.
const (
	PeersOff     PeersFirst = "off"     // they are not told, and learn it from the pod's status
	PeersPrefer  PeersFirst = "prefer"  // they are told before it starts or, after a while, later
	PeersRequire PeersFirst = "require" // they are told before it starts, or it does not start
)

// CNI is the agent's part of connecting pods.
type CNI struct {
	// Socket is where the plugin asks, State the folder that keeps what it said.
	Socket, State string
	// Bridge is the bridge that the plugin connects pods by, Routes what makes
	// the routes to the other nodes' pods; nil: another plugin does both.
	Bridge *enforcer.Bridge
	Routes network.NodeNetwork
	// Refuse is why no pod can be attached as long as this agent runs; nil: pods can.
	Refuse error
	// LastAddr is another Node's address as an earlier agent's tunnel still has it, or the
	// zero Addr: it counts while that Node shows none of its family. Nil: nobody knows.
	LastAddr func(node string) netip.Addr
	// Publish writes the CNI configuration for this node, and installs the
	// plugin, where that has changed; nil: others do.
	Publish func(self node.Node) error
	// Links says which of the named links the node has, by which attachments of lost
	// containers are found; nil: they stay until GC.
	Links func(names []string) (has map[string]bool, err error)
	// HostPorts says what operators should know of hostPort on this node; empty: they
	// are served. It is asked after Publish. Nil: they are another plugin's business.
	HostPorts func() string
}

// bridge is the bridge that the plugin connects pods by; nil: it connects none.
func (c *CNI) bridge() *enforcer.Bridge {
	if c == nil {
		return nil
	}
	return c.Bridge
}

// lastAddr is LastAddr; nil: nobody knows.
func (c *CNI) lastAddr() func(node string) netip.Addr {
	if c == nil {
		return nil
	}
	return c.LastAddr
}

// clock is Clock, or the machine's.
func (o *Options) clock() clock.WithTicker {
	if o.Clock == nil {
		return clock.RealClock{}
	}
	return o.Clock
}

// Flows is connection tracking: it judges established flows, and ends those of addresses.
type Flows interface {
	enforcer.Flows
	attachments.Flows
}

// Agent fences one node's pods.
type Agent struct {
	manager.Manager
	Enforcer *enforcer.Enforcer
	// Manifests is the source if that is a folder, else nil.
	Manifests *folder.Source
	// Flows are what was last seen of denied packets and of connections.
	Flows *observer.Store

	// denials tells of denied packets; nil: nobody does.
	denials *observer.Denials
	// hubble serves Hubble's API; nil: nobody does.
	hubble *hubble.Server
	report *report.Reporter
	// answers answers questions; nil: it answers none.
	answers *answers.Server
	options Options
}

// New puts an agent together. Start runs it.
func New(kernel enforcer.Kernel, o Options) (*Agent, error) {
	if o.Node == "" {
		return nil, errors.New("no node name: podfence must know whose pods to fence")
	}
	cluster := controllers.NewSource()
	mgr, err := newManager(o, cluster)
	if err != nil {
		return nil, err
	}
	a := &Agent{Manager: mgr, options: o}
	reports := report.Options{Node: o.Node, Log: o.Log, Registry: o.Registry, Checks: a.checks()}
	var direct client.Reader // for the lists that ADDs wait for
	if o.API != nil {
		own := client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()}
		if reports.Writer, err = ownClient(o.API, own, report.EventRate, report.EventBurst); err != nil {
			return nil, fmt.Errorf("setting up the client for Events: %w", err)
		}
		if direct, err = ownClient(o.API, own, controllers.ListRate, controllers.ListBurst); err != nil {
			return nil, fmt.Errorf("setting up the client for the lists that ADDs wait for: %w", err)
		}
		reports.Policy = cluster.Policy
	}
	a.report = report.New(reports)
	if o.Staged != nil {
		staged := *o.Staged
		staged.Tell = func(l nft.Logged) {
			if a.denials != nil {
				a.denials.Tell(l)
			}
		}
		o.Staged = &staged
	}
	var routes *network.Network
	var names func(enforcer.Committed)
	a.Enforcer = enforcer.New(kernel, enforcer.Options{
		Node: o.Node, Ruleset: o.Ruleset, LastPodCIDRs: o.LastPodCIDRs, NamespaceBudget: o.NamespaceBudget, IgnorePodCIDRs: o.IgnorePodCIDRs,
		Flows: o.Flows, OpenFlows: o.OpenFlows, Remembered: o.DNS.Remembered, Watch: o.Watch, Bridge: o.CNI.bridge(), PodLinks: o.PodLinks, Staged: o.Staged,
		Report: func(outcome enforcer.Outcome) {
			if c, is := outcome.(enforcer.Committed); is {
				if routes != nil {
					routes.Committed(c)
				}
				if names != nil {
					names(c)
				}
			}
			a.report.Report(outcome)
			if a.answers != nil {
				a.answers.Note(outcome)
			}
			a.noteHubblePeers(outcome)
		},
	})
	a.report.Of(a.Enforcer)
	o.Registry.MustRegister(buildInfo(o), cluster.Metrics(), a.report.Gathered(o.Drops, o.Log.WithName("metrics")), a.report.Counters(o.Counters, o.FrameCounters, o.Log.WithName("metrics")),
		a.report.StagedCounters(o.StagedCounters, o.Log.WithName("metrics")))

	if o.API != nil {
		err = errors.Join(mgr.Add(a.report.Events), mgr.Add(a.report.Problems), cluster.SetupWithManager(mgr, controllers.Options{
			Node: o.Node, Enforcer: a.Enforcer, Report: a.report, Direct: direct, EarlierAddr: o.CNI.lastAddr(), Clock: o.clock(), Log: o.Log,
		}))
	} else {
		o.Registry.MustRegister(a.report.Metrics.Manifests())
		a.Manifests = folder.NewSource(folder.SourceOptions{
			Path: o.Manifests, KeepIfEmpty: o.KeepIfEmpty, EarlierAddr: o.CNI.lastAddr(),
			Enforcer: a.Enforcer, Report: a.report, Log: o.Log.WithName("manifests"),
		})
		err = mgr.Add(a.Manifests)
	}
	var plugin *attachments.Server
	if o.CNI != nil {
		announcer, also := a.announcePods(cluster)
		err = errors.Join(err, also)
		if plugin, also = a.serveCNI(cluster, announcer); also != nil {
			return nil, errors.Join(err, also)
		}
		if o.CNI.Publish != nil {
			a.report.Health.Set(report.NetworkFailed, network.ErrNoRound)
			routes = network.New(network.Options{
				Node: o.Node, Routes: o.CNI.Routes, Connects: o.CNI.Bridge.Connects, Publish: o.CNI.Publish, HostPorts: o.CNI.HostPorts,
				Fenced: a.Enforcer.SyncFirst, Report: a.report, Log: o.Log.WithName("network"),
			})
			err = errors.Join(err, mgr.Add(routes))
		}
	}
	names, also := a.learnNames()
	err = errors.Join(err, also)
	o.Registry.MustRegister(report.NodeMetrics(o.ProcSys, waitingSince(plugin)))
	a.checkHealth(plugin)
	return a, errors.Join(err,
		a.observe(cluster),
		a.serveAnswers(plugin),
		a.serveHubble(),
		a.logDrops(cluster),
		mgr.Add(a.Enforcer),
		mgr.Add(manager.RunnableFunc(a.report.WatchMemory)),
		mgr.Add(a.report.Health),
		a.serveHealth())
}

// newManager returns the manager, with the caches that the source needs.
func newManager(o Options, cluster *controllers.Source) (manager.Manager, error) {
	api, caches := o.API, cluster.CacheOptions()
	if api == nil {
		// The manager still runs the servers and the parts. It asks no API server anything, because
		// no part has it ask.
		api, caches = &rest.Config{Host: "http://no-api-server.invalid"}, cache.Options{}
	}
	skipNameValidation := true // two agents in one process have controllers of the same names
	mgr, err := manager.New(api, manager.Options{
		Scheme:                 scheme,
		Logger:                 o.Log.V(1), // what starts and stops in it is for developers
		Cache:                  caches,
		MapperProvider:         kinds,
		Metrics:                metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress: "0", // serveHealth does
		PprofBindAddress:       o.PprofAddress,
		Controller:             config.Controller{SkipNameValidation: &skipNameValidation, CacheSyncTimeout: noTimeout},
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the manager: %w", err)
	}
	return mgr, nil
}

// announcePods has the manager announce new pods' addresses to other nodes, and take in what those
// announce; nil: it is not to.
func (a *Agent) announcePods(cluster *controllers.Source) (attachments.Announcer, error) {
	o := a.options
	if o.API == nil || o.PeersFirst == PeersOff || o.PeersFirst == "" {
		return nil, nil
	}
	log := o.Log.WithName("announcements")
	own, err := ownClient(o.API, client.Options{Scheme: a.GetScheme(), Mapper: a.GetRESTMapper()}, announcements.Rate, announcements.Burst)
	if err != nil {
		return nil, fmt.Errorf("setting up the client for PodAddresses: %w", err)
	}
	var announcer *announcements.Announcer
	reader := controllers.NewPodAddressesReconciler(cluster, a.Manager, o.Node, func(o *v1alpha1.PodAddresses) { announcer.Seen(o) })
	trust := announcements.NewTrust(o.Node, own, func(ctx context.Context, on bool) error {
		a.report.Metrics.Announcing(on)
		return reader.TrustAnnouncements(ctx, on)
	}, log)
	announcer = announcements.New(announcements.Options{
		Node: o.Node, Client: own, Require: o.PeersFirst == PeersRequire, Pod: cluster.Pod,
		NodeUID: func() types.UID { return cluster.NodeUID(o.Node) }, Attachments: a.Enforcer.Attachments, Synced: a.Enforcer.SyncFirst,
		Trust: trust, Report: a.report.Metrics, Log: log,
	})
	return announcer, errors.Join(a.Add(trust), a.Add(announcer))
}

// serveCNI has the manager answer the CNI plugin. announcer is nil if nobody is told of addresses.
func (a *Agent) serveCNI(cluster *controllers.Source, announcer attachments.Announcer) (*attachments.Server, error) {
	o := attachments.Options{
		Node: a.options.Node, Socket: a.options.CNI.Socket, State: a.options.CNI.State,
		Bridge: a.options.CNI.Bridge, Refuse: a.options.CNI.Refuse, Links: a.options.CNI.Links, Flows: a.options.Flows,
		Announcer: announcer,
		Enforcer:  a.Enforcer, Report: a.report, Log: a.options.Log.WithName("cni"),
	}
	if a.options.API != nil {
		o.Covered = cluster.Covered
	}
	server, err := attachments.New(o)
	if err != nil {
		return nil, err
	}
	return server, a.Add(server)
}

// Start runs the agent until ctx is done. As long as its caches have not synced, because the API
// server is away, the manager does not look at the context. There is nothing yet to stop in order
// either, so Start then returns without waiting for the manager.
func (a *Agent) Start(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- a.Manager.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if a.Enforcer.HasSynced() {
		return <-ended
	}
	return nil
}

// ownClient is a client for one purpose, without a cache. It may ask the API server rate times per
// second, and burst times at once. Nothing else has to wait while it waits for its turn.
func ownClient(api *rest.Config, o client.Options, rate float32, burst int) (client.Client, error) {
	own := rest.CopyConfig(api)
	own.QPS, own.Burst, own.RateLimiter = rate, burst, nil
	return client.New(own, o)
}
