package report

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/controllers/enforcer"
)

// Metrics are the agent's own; controller-runtime adds those of its queues and
// clients.
type Metrics struct {
	commits    *prometheus.CounterVec
	duration   prometheus.Histogram
	operations prometheus.Counter
	objects    *prometheus.GaugeVec
	elements   prometheus.Gauge
	orphans    prometheus.Gauge
	// refusedAddrs is how many addresses of this node and its ranges other nodes' pods show.
	refusedAddrs prometheus.Gauge
	problems     prometheus.Gauge
	refused      prometheus.Gauge
	overBudget   prometheus.Gauge
	staged       prometheus.Gauge
	stagedPods   prometheus.Gauge
	mismatches   prometheus.Counter
	flows        *prometheus.CounterVec
	repairs      prometheus.Counter
	// networkRepairs are of links, routes, neighbours, rules and settings.
	networkRepairs prometheus.Counter
	manifests      prometheus.Gauge // registered where manifests are the source
	unhealthy      *prometheus.GaugeVec
	adds           *prometheus.CounterVec
	addDuration    prometheus.Histogram
	events         *prometheus.CounterVec
	announced      *prometheus.CounterVec
	announcing     prometheus.Gauge
	peerAddress    prometheus.Histogram
	enforcement    *prometheus.HistogramVec
}

// newMetrics registers the agent's metrics.
func newMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podfence_commits_total", Help: "Transactions sent to the kernel, by result (success, error).",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "podfence_commit_duration_seconds", Help: "Time to work a transaction out and have the kernel commit it.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		operations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "podfence_operations_total", Help: "Operations in committed transactions: sets, elements, chains and rules changed.",
		}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "podfence_table_objects", Help: "Objects in the kernel's table, by kind (set, map, chain, rule).",
		}, []string{"kind"}),
		elements: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_table_elements", Help: "Elements in all sets and maps of the kernel's table.",
		}),
		orphans: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_orphan_addresses", Help: "Addresses that containers of this node have whose pod is not known: closed. More than zero for long is a container that outlives its pod.",
		}),
		refusedAddrs: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_refused_addresses", Help: "Addresses of this node or its pod CIDRs that the API showed for pods of other nodes when the table was last replaced: they do not count as those pods'. See --pod-cidrs.",
		}),
		problems: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_policy_problems", Help: "Parts of NetworkPolicies and ClusterNetworkPolicies that cannot be enforced as written; each has an Event.",
		}),
		refused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_policies_refused", Help: "Policies that allow nothing because the kernel refuses their rules: NetworkPolicies isolate their pods, ClusterNetworkPolicies deny everything where they denied or passed anything; the log says why, and an Event on each.",
		}),
		overBudget: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_policies_over_budget", Help: "NetworkPolicies that isolate their pods and allow nothing because their namespace takes more of the node than it may (--namespace-budget); an Event on each.",
		}),
		staged: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_staged_policies", Help: "NetworkPolicies and ClusterNetworkPolicies of the cluster that are staged: they change no verdict (annotation podfence.io/enforcement).",
		}),
		stagedPods: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_staged_pods", Help: "Pods of this node that a staged policy is about, for which the kernel works out what it would deny.",
		}),
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "podfence_mismatches_total", Help: "Changes that the kernel refused though it took the whole table: it was not as podfence had left it.",
		}),
		flows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podfence_flows_total", Help: "Established flows that a policy change has cut (revoked) or let go on (restored).",
		}, []string{"change"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "podfence_repairs_total", Help: "Replacements of the table because somebody else had changed it; the log says who.",
		}),
		adds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podfence_adds_total", Help: "ADDs of the CNI plugin that were answered, by result: success (the pod's rules are in the kernel) or error (its sandbox fails, and kubelet tries again).",
		}, []string{"result"}),
		addDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "podfence_add_duration_seconds", Help: "Time until an ADD was answered with success.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podfence_events_total", Help: "Events for the API server, by result: created, exists (another agent has created it), error (it is tried again) or dropped (too many waited, or its namespace is going).",
		}, []string{"result"}),
		announced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "podfence_announcements_total", Help: "ADDs whose addresses were to be announced to other nodes, by result: success (the API server had them before the pod started) or error (it had them late, or, with --peers-first=require, the ADD has failed).",
		}, []string{"result"}),
		announcing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_announcing", Help: "1 while new pods' addresses are announced to other nodes, and what those announce is believed. 0: not; with --peers-first=off or --cni none it always is, and else the log says what the cluster lacks to refuse false announcements.",
		}),
		peerAddress: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "podfence_peer_address_seconds", Help: "Time from when a pod of another node was given its address until the rules here know it, by announcements. It spans two nodes' clocks: one that is behind the other node's by more than that takes counts only what it took here.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		enforcement: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "podfence_policy_enforcement_seconds", Help: "Time until a policy that has come or changed, and selects pods of this node, is in the kernel: from the change (from=change; it is known in whole seconds, and of another machine's clock) and from when the watch has told of it (from=watch).",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 18),
		}, []string{"from"}),
		networkRepairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "podfence_network_repairs_total", Help: "Links, addresses, routes, neighbours, rules and settings of the pods' network that podfence has made again because somebody else had changed them; the log names them.",
		}),
		manifests: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "podfence_manifests_valid", Help: "1 if the manifests folder was valid when last read; else the last valid state is enforced.",
		}),
		unhealthy: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "podfence_unhealthy", Help: "1 while the node is in this condition, and the agent not ready; /readyz, the log and an Event on the Node say why, docs/OPERATIONS.md what to do.",
		}, []string{"condition"}),
	}
	for _, result := range []string{"success", "error"} { // so that the first one is an increase
		m.commits.WithLabelValues(result)
		m.adds.WithLabelValues(result)
		m.announced.WithLabelValues(result)
	}
	for _, from := range []string{"change", "watch"} {
		m.enforcement.WithLabelValues(from)
	}
	for _, change := range []string{"revoked", "restored"} {
		m.flows.WithLabelValues(change)
	}
	registry.MustRegister(m.commits, m.duration, m.operations, m.objects, m.elements, m.orphans, m.refusedAddrs, m.problems, m.refused, m.overBudget, m.staged, m.stagedPods, m.mismatches, m.flows, m.repairs, m.networkRepairs, m.unhealthy, m.events, m.adds, m.addDuration, m.announced, m.announcing, m.peerAddress, m.enforcement)
	return m
}

func (m *Metrics) transacted(o enforcer.Transacted) {
	if o.Err != nil {
		m.commits.WithLabelValues("error").Inc()
		return
	}
	m.commits.WithLabelValues("success").Inc()
	m.duration.Observe(o.Took.Seconds())
	m.operations.Add(float64(o.Operations))
}

// enforcedSinceChange counts a policy that is in the kernel now, by the time since its change. Another machine's
// clock says when that was.
func (m *Metrics) enforcedSinceChange(took time.Duration) {
	m.enforcement.WithLabelValues("change").Observe(max(took, 0).Seconds())
}

// enforcedSinceWatch counts it by the time since the watch has told of it.
func (m *Metrics) enforcedSinceWatch(took time.Duration) {
	m.enforcement.WithLabelValues("watch").Observe(max(took, 0).Seconds())
}

func (m *Metrics) settled(o enforcer.Settled) {
	m.objects.WithLabelValues("set").Set(float64(o.Size.Sets))
	m.objects.WithLabelValues("map").Set(float64(o.Size.Maps))
	m.objects.WithLabelValues("chain").Set(float64(o.Size.Chains))
	m.objects.WithLabelValues("rule").Set(float64(o.Size.Rules))
	m.elements.Set(float64(o.Size.Elements))
	m.orphans.Set(float64(o.Size.Orphans))
	m.refused.Set(float64(o.Quarantined))
	m.overBudget.Set(float64(o.OverBudget))
}

func (m *Metrics) rehearsed(o enforcer.Rehearsed) {
	m.staged.Set(float64(o.Policies))
	m.stagedPods.Set(float64(o.Pods))
}

// Added counts an ADD of the CNI plugin that was answered: with an error, or after what time.
func (m *Metrics) Added(err error, took time.Duration) {
	if err != nil {
		m.adds.WithLabelValues("error").Inc()
		return
	}
	m.adds.WithLabelValues("success").Inc()
	m.addDuration.Observe(took.Seconds())
}

// Announced counts an ADD whose addresses were announced to other nodes, or not in time.
func (m *Metrics) Announced(err error) {
	if err != nil {
		m.announced.WithLabelValues("error").Inc()
		return
	}
	m.announced.WithLabelValues("success").Inc()
}

// Announcing says whether announcements are made and believed.
func (m *Metrics) Announcing(is bool) { m.announcing.Set(oneIf(is)) }

// PeerKnown counts an announced address that the rules know now, after what time.
func (m *Metrics) PeerKnown(after time.Duration) { m.peerAddress.Observe(after.Seconds()) }

// NetworkRepaired counts what of the pods' network was made again because somebody else had
// changed it.
func (m *Metrics) NetworkRepaired(changes int) { m.networkRepairs.Add(float64(changes)) }

// ManifestsValid says whether the folder of manifests was valid when it was last read.
func (m *Metrics) ManifestsValid(valid bool) {
	m.manifests.Set(oneIf(valid))
}

// Manifests is the metric that ManifestsValid sets, to be registered where manifests are the
// source.
func (m *Metrics) Manifests() prometheus.Collector { return m.manifests }

// judged counts established flows that were judged otherwise than before.
func (m *Metrics) judged(o enforcer.Revoked) {
	m.flows.WithLabelValues("revoked").Add(float64(o.Revoked))
	m.flows.WithLabelValues("restored").Add(float64(o.Restored))
}

func (m *Metrics) mismatched() { m.mismatches.Inc() }
func (m *Metrics) repaired()   { m.repairs.Inc() }

// event counts what has become of an Event.
func (m *Metrics) event(result string) { m.events.WithLabelValues(result).Inc() }

// policyProblems is how many parts of policies cannot be enforced as written, and refusedAddresses
// how many addresses other nodes' pods show wrongly.
func (m *Metrics) policyProblems(n int)   { m.problems.Set(float64(n)) }
func (m *Metrics) refusedAddresses(n int) { m.refusedAddrs.Set(float64(n)) }

// condition says whether the node is in a condition.
func (m *Metrics) condition(c Condition, is bool) {
	m.unhealthy.WithLabelValues(string(c)).Set(oneIf(is))
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
