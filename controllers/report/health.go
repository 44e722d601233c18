package report

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Condition names one way in which a node is not as podfence promises it: its pods
// may be unfenced, or cannot be connected. /readyz, the log, the reason of the Event on
// the Node and the label of podfence_unhealthy all use the name.
type Condition string

// The conditions. docs/OPERATIONS.md says of each what to do.
const (
	// NotStarted: no rules are in the kernel yet that this agent has made.
	NotStarted Condition = "NotStarted"
	// CommitFailed: the kernel has refused the last change, or somebody else keeps
	// undoing what it has taken.
	CommitFailed Condition = "CommitFailed"
	// NetworkFailed: routes, links or settings that this node's pods need are missing.
	NetworkFailed Condition = "NetworkFailed"
	// NotInstalled: the CNI plugin or its configuration is not where the container
	// runtime looks.
	NotInstalled Condition = "NotInstalled"
	// ManifestsEmpty: the folder of --manifests has nothing in it, which nobody has said is
	// meant.
	ManifestsEmpty Condition = "ManifestsEmpty"
	// ClusterPoliciesUnread: the API server has ClusterNetworkPolicies, and does not let the agent read
	// them.
	ClusterPoliciesUnread Condition = "ClusterPoliciesUnread"
	// NodeUnknown: no Node has the name whose pods are to be fenced, so none are.
	NodeUnknown Condition = "NodeUnknown"
	// ConflistShadowed: the container runtime connects pods by another configuration.
	ConflistShadowed Condition = "ConflistShadowed"
	// ModeChanged: the node still has pods, or a configuration, of another way to connect
	// pods than --cni says (modes.go).
	ModeChanged Condition = "ModeChanged"
	// IPVSProxy: kube-proxy balances by IPVS, past the forward hook.
	IPVSProxy Condition = "IPVSProxy"
	// BridgeNetfilterOff: a bridge passes packets between pods past the rules.
	BridgeNetfilterOff Condition = "BridgeNetfilterOff"
)

// Conditions returns all of them.
func Conditions() []Condition {
	return []Condition{NotStarted, CommitFailed, ManifestsEmpty, ClusterPoliciesUnread, NodeUnknown, NetworkFailed, NotInstalled, ConflistShadowed, ModeChanged, IPVSProxy, BridgeNetfilterOff}
}

// Health keeps which conditions are there, and says so: to /readyz, in the log and by
// a gauge at once, by a Warning Event on the Node within healthPeriod. Its methods may be
// called concurrently, and never wait.
type Health struct {
	node    string
	events  *Events
	log     logr.Logger
	metrics *Metrics
	// checks look for conditions that nobody sets.
	checks map[Condition]func() error

	mu sync.Mutex
	// reasons are why conditions are there.
	reasons map[Condition]error
	// notices are the Events that say so.
	notices map[Condition]notice
}

// notice is the Event that says a reason.
type notice struct {
	why   error
	event *corev1.Event
}

// healthPeriod is how often the checks are made and Events are created. A condition that comes and
// goes in between is in the log only.
const healthPeriod = 5 * time.Second

func newHealth(o Options, metrics *Metrics, events *Events) *Health {
	h := &Health{
		node: o.Node, events: events, log: o.Log.WithName("health"), metrics: metrics, checks: map[Condition]func() error{},
		reasons: map[Condition]error{}, notices: map[Condition]notice{},
	}
	maps.Copy(h.checks, o.Checks)
	for _, c := range Conditions() {
		metrics.condition(c, false)
	}
	return h
}

// Set says why a condition is there; nil: it is not. Why should say what to do, and be
// the same for as long as the cause is: each other text is news. It holds no times,
// counts or process ids for that.
func (h *Health) Set(c Condition, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.reasons[c]
	switch {
	case why == nil && was == nil || why != nil && was != nil && why.Error() == was.Error():
		return
	case why == nil:
		delete(h.reasons, c)
		h.metrics.condition(c, false)
		h.log.Info("A condition is over", "condition", c, "ready", len(h.reasons) == 0)
	default:
		h.reasons[c] = why
		h.metrics.condition(c, true)
		warn(h.log, "Not ready", "condition", c, "reason", why.Error())
	}
}

// Err joins the reasons of all conditions that are there, each after its name; nil: the
// node is healthy.
func (h *Health) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, c := range Conditions() {
		if why := h.reasons[c]; why != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c, why))
		}
	}
	return errors.Join(errs...)
}

// Reason is a condition that is there, and why.
type Reason struct {
	Condition Condition
	Why       string
}

// Reasons are the conditions that are there, in the order of Conditions; none: the node is healthy.
func (h *Health) Reasons() (all []Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range Conditions() {
		if why := h.reasons[c]; why != nil {
			all = append(all, Reason{Condition: c, Why: why.Error()})
		}
	}
	return all
}

// ServeHTTP answers /readyz: with 500 and all reasons, a line each, while there are any.
// (controller-runtime's own says "reason withheld", and a line in the log for each
// probe.)
func (h *Health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if err := h.Err(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Watch adds a check that looks for a condition. It must be called before Start.
func (h *Health) Watch(c Condition, check func() error) { h.checks[c] = check }

// Check makes all checks once.
func (h *Health) Check() {
	for c, check := range h.checks {
		h.Set(c, check())
	}
}

// CheckOne makes the check of a condition at once, if there is one.
func (h *Health) CheckOne(c Condition) {
	if check := h.checks[c]; check != nil {
		h.Set(c, check())
	}
}

// Start makes the checks and has Events created until ctx is done. It implements
// manager.Runnable.
func (h *Health) Start(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(healthPeriod):
			h.Check()
			h.tell()
		}
	}
}

// tell has an Event created for each condition whose reason no Event has said yet. It takes back
// the Events that hold no longer, if they have not been created yet. The same reason is the same
// Event, until the API server forgets it.
func (h *Health) tell() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range Conditions() {
		why, before := h.reasons[c], h.notices[c]
		if why != nil && before.why != nil && why.Error() == before.why.Error() {
			continue
		}
		if before.why != nil {
			h.events.Drop(before.event)
			delete(h.notices, c)
		}
		if why != nil {
			about := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: h.node, UID: types.UID(h.node)}
			event := h.events.Warning(about, string(c), fmt.Sprintf("%s %s %s", h.node, c, why), why.Error())
			h.events.Create(event)
			h.notices[c] = notice{why, event}
		}
	}
}
