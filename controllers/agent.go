package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
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
	// Flows is where to cut established flows that policy no longer allows; it
	// needs Ruleset.RevokedMark. Nil: they are left alone.
	Flows Flows
	// Watch notices what others do to the tables. Nil: nothing does.
	Watch Watch
	// PodLinks finds the pods' links where another plugin makes them; it needs
	// Ruleset.Links. Nil: podfence connects the pods.
	PodLinks PodLinks
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
	// Checks look, every few seconds, whether the node is in a condition: an error is
	// why it is.
	Checks map[Condition]func() error
	// Version is the program's, for a metric.
	Version string
	// Drops are how many packets the kernel's table has dropped, by reason. Nil: not
	// known.
	Drops func() (map[string]uint64, error)
	// Registry gets the agent's metrics.
	Registry prometheus.Registerer
	Log      logr.Logger
}

// CNI is the agent's part of connecting pods.
type CNI struct {
	// Socket is where the plugin asks, State the folder that keeps what it said.
	Socket, State string
	// Bridge is the bridge that the plugin connects pods by, Routes what makes
	// the routes to the other nodes' pods; nil: another plugin does both.
	Bridge *Bridge
	Routes NodeNetwork
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
	Links func(names []string) (there map[string]bool, err error)
	// HostPorts says what operators should know of hostPort on this node; empty: they
	// are served. It is asked after Publish. Nil: they are another plugin's business.
	HostPorts func() string
}

// Agent fences one node's pods.
type Agent struct {
	manager.Manager
	Enforcer *Enforcer
	// Manifests is the source if that is a folder, else nil.
	Manifests *Manifests
}

// NewAgent puts an agent together: source -> model -> enforcer -> kernel. Start runs
// it.
func NewAgent(kernel Kernel, o Options) (*Agent, error) {
	if o.Node == "" {
		return nil, errors.New("no node name: podfence must know whose pods to fence")
	}
	pods, sizes := newPodSizes(), newPolicySizes()
	api, caches := o.API, cacheOptions(pods, sizes)
	if api == nil {
		// The manager still runs the servers and the parts; it asks no API
		// server anything, as nothing asks it to.
		api, caches = &rest.Config{Host: "http://no-api-server.invalid"}, cache.Options{}
	}
	skipNameValidation := true // two agents in one process have controllers of the same names
	mgr, err := manager.New(api, manager.Options{
		Logger:                 o.Log.V(1), // what starts and stops in it is for developers
		Cache:                  caches,
		MapperProvider:         kinds,
		Metrics:                metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress: "0", // serveHealth does
		PprofBindAddress:       o.PprofAddress,
		Controller:             config.Controller{SkipNameValidation: &skipNameValidation, CacheSyncTimeout: patient},
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the manager: %w", err)
	}
	metrics := newMetrics(o.Registry)
	o.Registry.MustRegister(buildInfo(o))
	var (
		events   *events
		policies *policyLists
	)
	if o.API != nil {
		own := client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()}
		writer, err := ownClient(o.API, own, eventRate, eventBurst)
		if err != nil {
			return nil, fmt.Errorf("setting up the client for Events: %w", err)
		}
		reader, err := ownClient(o.API, own, listRate, listBurst)
		if err != nil {
			return nil, fmt.Errorf("setting up the client for NetworkPolicies: %w", err)
		}
		events, policies = newEvents(writer, o.Log, metrics), newPolicyLists(reader)
	}
	a := &Agent{Manager: mgr, Enforcer: newEnforcer(kernel, o, metrics, events)}
	o.Registry.MustRegister(pods.metric(), &gathered{counts: a.Enforcer.counts, drops: o.Drops, log: o.Log.WithName("metrics")})
	if o.API != nil {
		pods.say = sayTooLarge(o.Log, events, o.Node)
		err = errors.Join(mgr.Add(events), a.watchCluster(newProblems(events, o.Node, o.Log, metrics), pods, sizes))
	} else {
		o.Registry.MustRegister(metrics.manifests)
		a.Manifests = &Manifests{path: o.Manifests, enforcer: a.Enforcer, log: o.Log.WithName("manifests"), metrics: metrics, keepIfEmpty: o.KeepIfEmpty}
		err = mgr.Add(a.Manifests)
	}
	if o.CNI != nil {
		err = errors.Join(err, a.serveCNI(o, events, policies))
	}
	a.Enforcer.health.checks[CommitFailed] = func() error {
		a.Enforcer.mu.Lock()
		defer a.Enforcer.mu.Unlock()
		return a.Enforcer.commitFailure()
	}
	a.Enforcer.health.checks[NodeUnknown] = a.Enforcer.nodeKnown
	if a.Enforcer.guard != nil && a.Enforcer.guard.Find != nil {
		a.Enforcer.health.checks[ModeChanged] = a.Enforcer.connectedOtherwise
	}
	a.Enforcer.health.check() // before anybody can find the agent ready
	return a, errors.Join(err,
		mgr.Add(a.Enforcer),
		mgr.Add(a.Enforcer.health),
		a.serveHealth(o.HealthAddress))
}

// serveHealth has the manager answer /healthz, while the process lives, and /readyz,
// while the node is healthy too.
func (a *Agent) serveHealth(address string) error {
	if address == "0" || address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", a.Enforcer.health.ready)
	return a.Add(&manager.Server{Name: "health", Server: &http.Server{
		Addr: address, Handler: mux, MaxHeaderBytes: 1 << 20, IdleTimeout: 90 * time.Second, ReadHeaderTimeout: 30 * time.Second,
	}})
}

// Start runs the agent until ctx is done. Before its caches have synced, which an API
// server that is away puts off, the manager looks at no context, and there is nothing
// yet to stop in order: then it is left behind.
func (a *Agent) Start(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- a.Manager.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case <-a.Enforcer.begin:
		return <-ended
	default:
		return nil
	}
}

// ownClient is a client for one purpose, without a cache, that may ask the API server so
// often per second, and so often at once: what it waits for, nothing else waits for.
func ownClient(api *rest.Config, o client.Options, rate float32, burst int) (client.Client, error) {
	own := rest.CopyConfig(api)
	own.QPS, own.Burst, own.RateLimiter = rate, burst, nil
	return client.New(own, o)
}

// serveCNI has the manager answer the CNI plugin, and keep the node's network.
func (a *Agent) serveCNI(o Options, events *events, policies *policyLists) error {
	attachments, err := newAttachments(o, a.Enforcer, events, policies)
	if err != nil {
		return err
	}
	err = a.Add(attachments)
	if o.CNI.Publish != nil {
		a.Enforcer.health.Set(NetworkFailed, errNoRound)
		err = errors.Join(err, a.Add(&Network{
			node: o.Node, enforcer: a.Enforcer, routes: o.CNI.Routes, publish: o.CNI.Publish, hostPorts: o.CNI.HostPorts,
			metrics: a.Enforcer.metrics, log: o.Log.WithName("network"),
		}))
	}
	return err
}

// watchCluster has the manager feed the enforcer from the API server.
func (a *Agent) watchCluster(problems *Problems, podSizes *podSizes, sizes *policySizes) error {
	reader := a.GetCache()
	pods, err := podsOf(context.Background(), reader)
	if err != nil {
		return err
	}
	return errors.Join(
		(&NodeReconciler{reader, a.Enforcer}).SetupWithManager(a.Manager),
		(&NamespaceReconciler{reader, a.Enforcer}).SetupWithManager(a.Manager),
		(&PodReconciler{pods, podSizes, a.Enforcer}).SetupWithManager(a.Manager),
		(&NetworkPolicyReconciler{reader, a.Enforcer, problems, sizes}).SetupWithManager(a.Manager),
		a.Add(&firstLoad{reader, pods, a.Enforcer}),
	)
}

// firstLoad feeds all that the caches hold once they have synced, and only
// then lets the enforcer begin: a commit of half a cluster would cut allowed
// traffic, or let denied traffic through.
type firstLoad struct {
	cache    cache.Cache
	pods     podStore
	enforcer *Enforcer
}

// Start implements manager.Runnable.
func (l *firstLoad) Start(ctx context.Context) error {
	var (
		nodes      corev1.NodeList
		namespaces corev1.NamespaceList
		policies   networkingv1.NetworkPolicyList
	)
	for _, object := range []client.Object{&corev1.Node{}, &corev1.Namespace{}, &corev1.Pod{}, &networkingv1.NetworkPolicy{}} {
		if _, err := l.cache.GetInformer(ctx, object); err != nil { // returns when it has synced
			return fmt.Errorf("watching %T: %w", object, err)
		}
	}
	err := l.enforcer.feed(func() (changes []policy.Change, err error) {
		l.enforcer.loaded = true
		for _, list := range []client.ObjectList{&nodes, &namespaces, &policies} {
			if err := l.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
				return nil, fmt.Errorf("listing %T: %w", list, err)
			}
		}
		for i := range nodes.Items {
			changes = append(changes, l.enforcer.setNode(&nodes.Items[i]))
		}
		for i := range namespaces.Items {
			changes = append(changes, policy.ChangeOf(&namespaces.Items[i]))
		}
		for _, object := range l.pods.List() {
			if pod := object.(*cachedPod).seen; pod != nil {
				changes = append(changes, policy.SetPod(pod))
			}
		}
		for i := range policies.Items {
			changes = append(changes, policy.ChangeOf(&policies.Items[i]))
			l.enforcer.policies.set(&policies.Items[i])
		}
		return changes, nil
	})
	if err != nil {
		return err
	}
	l.enforcer.Begin()
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's
// agent works.
func (*firstLoad) NeedLeaderElection() bool { return false }
