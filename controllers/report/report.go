package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
)

// Options are what a Reporter is told.
type Options struct {
	// Node is the name of the node that Events are about, or come from.
	Node string
	// Log gets lines, Registry metrics, and Writer Events. A nil Writer: there is no API server.
	Log      logr.Logger
	Registry prometheus.Registerer
	Writer   client.Writer
	// Policy returns a NetworkPolicy or a ClusterNetworkPolicy of the API as it is now, or nil. It
	// must not wait. It is needed with a Writer.
	Policy func(policy.Key) client.Object
	// Checks look, every few seconds, whether the node is in a condition: an error is
	// why it is.
	Checks map[Condition]func() error
}

// Reporter reports for one agent. Its methods may be called concurrently, and never wait. Those of its
// parts say so of themselves.
type Reporter struct {
	Health   *Health
	Metrics  *Metrics
	Problems *Problems
	Findings *Findings
	Events   *Events
	// Counting knows which policies have metrics of their own, and Enforcement measures how long they take
	// to be enforced.
	Counting    *Counting
	Enforcement *Enforcement
	// Staged says on objects that they are staged.
	Staged *Staged

	node string
	// log is for outcomes of the enforcer, and agent for all else.
	log, agent logr.Logger
	// enforcer is whose outcomes are reported.
	enforcer *enforcer.Enforcer
	// podCIDRs are the node's ranges in the table. Only the enforcer's loop reports commits.
	podCIDRs []string
}

// New returns a reporter. Of must be called before Report is.
func New(o Options) *Reporter {
	metrics := newMetrics(o.Registry)
	events := newEvents(o.Writer, o.Node, o.Log, metrics)
	r := &Reporter{
		Metrics: metrics, Events: events, Health: newHealth(o, metrics, events), node: o.Node, log: o.Log.WithName("enforcer"), agent: o.Log,
	}
	r.Problems = newProblems(events, o, metrics, func(key policy.Key) []policy.Problem { return r.enforcer.Problems(key) })
	r.Findings = newFindings(events, o)
	r.Counting, r.Enforcement, r.Staged = newCounting(o.Log), newEnforcement(metrics), newStaged(events, o.Log)
	r.Health.Set(NotStarted, enforcer.ErrNotStarted)
	return r
}

// Of says whose outcomes are reported.
func (r *Reporter) Of(e *enforcer.Enforcer) { r.enforcer = e }

// Report reports an outcome.
func (r *Reporter) Report(outcome enforcer.Outcome) {
	switch o := outcome.(type) {
	case enforcer.Started:
		r.Health.CheckOne(NodeUnknown)
	case enforcer.Transacted:
		r.Metrics.transacted(o)
	case enforcer.Committed:
		r.committed(o)
	case enforcer.Settled:
		r.Metrics.settled(o)
		r.Health.Set(CommitFailed, r.enforcer.CommitFailure())
		r.Health.Set(NotStarted, nil)
	case enforcer.Failed:
		r.Health.Set(CommitFailed, o.Err)
		r.log.Error(o.Err, "Cannot commit; the kernel keeps the rules it has", "retryAfter", o.RetryAfter.String())
	case enforcer.Mismatched:
		r.Metrics.mismatched()
		r.log.Error(o.Err, "The kernel has refused a change, and taken all of it anew: the table was not as podfence had left it")
	case enforcer.Quarantined:
		r.quarantined(o)
	case enforcer.OverBudget:
		r.overBudget(o)
	case enforcer.Tampered:
		r.tampered(o)
	case enforcer.Repaired:
		r.Metrics.repaired()
		r.log.Info("Repaired the table", "after", o.After.String())
	case enforcer.Revoked:
		r.revoked(o)
	case enforcer.Rehearsed:
		r.Metrics.rehearsed(o)
		r.log.Info("Working out what staged policies would do; they change no verdict", "policies", o.Policies, "pods", o.Pods)
	case enforcer.WouldRevoke:
		r.log.Info("Established flows would be cut with the staged policies in force", "flows", o.Flows)
	case enforcer.Troubled:
		keysAndValues := []any{}
		if o.Addresses > 0 {
			keysAndValues = append(keysAndValues, "addresses", o.Addresses)
		}
		if o.RetryAfter > 0 {
			keysAndValues = append(keysAndValues, "retryAfter", o.RetryAfter.String())
		}
		r.log.Error(o.Err, o.What, keysAndValues...)
	default:
		panic(fmt.Sprintf("report knows of no %T", outcome))
	}
}

// quarantined says which policies the kernel refuses.
func (r *Reporter) quarantined(o enforcer.Quarantined) {
	r.Problems.Recheck(slices.Concat(o.Refused, o.Untried, o.Released))
	if len(o.Refused)+len(o.Untried) == 0 {
		return
	}
	about := policies(o.Refused, func(names []string) string { return strings.Join(names, " ") })
	r.log.Error(o.Err, "The kernel refuses NetworkPolicies: they allow nothing until they are changed; all else is enforced",
		append(about, "notKnownYet", len(o.Untried), "trials", o.Trials, "took", o.Took.String())...)
}

// overBudget says which policies a budget has no room for, and which it has room for again.
func (r *Reporter) overBudget(o enforcer.OverBudget) {
	r.Problems.Recheck(slices.Concat(o.Quarantined, o.Released))
	if len(o.Quarantined) > 0 {
		warn(r.log, "NetworkPolicies take more of the node than their namespace may: the largest allow nothing until there is room; all else is enforced", policies(o.Quarantined, oneLine)...)
	}
	if len(o.Released) > 0 {
		r.log.Info("There is room again for NetworkPolicies, or they have changed", policies(o.Released, oneLine)...)
	}
}

// revoked says which established flows are cut, and which go on.
func (r *Reporter) revoked(o enforcer.Revoked) {
	r.Metrics.judged(o)
	var by []string
	for _, denial := range o.Denied[:min(len(o.Denied), spelledOut)] {
		by = append(by, fmt.Sprintf("%s (%d)", denial.By, denial.Flows))
	}
	if more := len(o.Denied) - spelledOut; more > 0 {
		by = append(by, fmt.Sprintf("and %d more", more))
	}
	r.log.Info("Judged established flows anew", "revoked", o.Revoked, "restored", o.Restored, "denied", by)
}

// policies are the keys and values of a log line that names policies, each kind apart.
func policies(keys []policy.Key, join func([]string) string) (keysAndValues []any) {
	var namespaced, cluster []string
	for _, key := range keys {
		if key.Namespace == "" {
			cluster = append(cluster, key.Name)
		} else {
			namespaced = append(namespaced, key.String())
		}
	}
	if len(namespaced) > 0 || len(cluster) == 0 {
		keysAndValues = append(keysAndValues, "networkPolicies", join(namespaced))
	}
	if len(cluster) > 0 {
		keysAndValues = append(keysAndValues, "clusterNetworkPolicies", join(cluster))
	}
	return keysAndValues
}

// named are the key and the value of a log line that names one policy.
func named(key policy.Key) []any {
	if key.Namespace == "" {
		return []any{"clusterNetworkPolicy", key.Name}
	}
	return []any{"networkPolicy", key.String()}
}
