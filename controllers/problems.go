package controllers

import (
	"fmt"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
)

// ReasonNotEnforceable is the reason of the Warning Event on a NetworkPolicy
// with a part that allows nothing because it cannot be read.
const ReasonNotEnforceable = "NotEnforceable"

// Problems reports what of policies cannot be enforced.
type Problems struct {
	events  *events // nil: there is no API server to tell
	node    string
	log     logr.Logger
	metrics *metrics

	mu    sync.Mutex
	known map[types.NamespacedName]problem
}

// problem is what is wrong with a policy, as last reported.
type problem struct {
	identity string
	parts    int
	event    *corev1.Event
}

// spelledOut is how many of a policy's problems are named; a policy can have
// thousands.
const spelledOut = 10

func messageOf(problems []policy.Problem) string {
	var texts []string
	for _, problem := range problems[:min(len(problems), spelledOut)] {
		texts = append(texts, problem.Field+": "+problem.Reason)
	}
	if more := len(problems) - spelledOut; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

func newProblems(events *events, node string, log logr.Logger, m *metrics) *Problems {
	return &Problems{events: events, node: node, log: log, metrics: m, known: map[types.NamespacedName]problem{}}
}

// Report says what is wrong with a policy, if that is news: in the log, in the
// podfence_policy_problems metric, and in a Warning Event. It never waits. Every node's
// agent finds the same, so the Event's name is made from what it says: one of them
// creates it, and the others find it there.
func (p *Problems) Report(key types.NamespacedName, np *networkingv1.NetworkPolicy, problems []policy.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, is := p.known[key]
	if len(problems) == 0 {
		if is {
			p.events.drop(was.event)
			delete(p.known, key)
			p.count()
		}
		return
	}
	message := messageOf(problems)
	now := problem{identity: fmt.Sprintf("%s %d %s", np.UID, np.Generation, message), parts: len(problems)}
	if is && was.identity == now.identity {
		return
	}
	if is {
		p.events.drop(was.event)
	}
	warn(p.log, "NetworkPolicy cannot be enforced as written: what is wrong in it allows nothing", "networkPolicy", key.String(), "problems", message)
	now.event = p.event(np, now.identity, message)
	p.known[key] = now
	p.count()
	p.events.create(now.event)
}

func (p *Problems) count() {
	total := 0
	for _, one := range p.known {
		total += one.parts
	}
	p.metrics.problems.Set(float64(total))
}

func (p *Problems) event(np *networkingv1.NetworkPolicy, identity, message string) *corev1.Event {
	return warning(corev1.ObjectReference{
		APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy",
		Namespace: np.Namespace, Name: np.Name, UID: np.UID, ResourceVersion: np.ResourceVersion,
	}, p.node, ReasonNotEnforceable, identity, message)
}
