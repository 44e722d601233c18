package controllers

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// ReasonNotEnforceable is the reason of the Warning Event on a NetworkPolicy
// with a part that allows nothing because it cannot be read.
const ReasonNotEnforceable = "NotEnforceable"

// Problems reports what of policies cannot be enforced.
type Problems struct {
	client  client.Writer // nil: there is no API server to tell
	node    string
	log     logr.Logger
	metrics *metrics

	mu          sync.Mutex
	said, known map[types.NamespacedName]string // what is wrong, as last logged, and as an Event
	parts       map[types.NamespacedName]int
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

func newProblems(c client.Writer, node string, log logr.Logger, m *metrics) *Problems {
	return &Problems{client: c, node: node, log: log, metrics: m, said: map[types.NamespacedName]string{}, known: map[types.NamespacedName]string{}, parts: map[types.NamespacedName]int{}}
}

// +kubebuilder:rbac:groups="",resources=events,verbs=create

// Report says what is wrong with a policy, if that is news: in the log, in the
// podfence_policy_problems metric, and in a Warning Event. Every node's agent
// finds the same, so the Event's name is made from what it says: one of them
// creates it, and the others find it there.
func (p *Problems) Report(ctx context.Context, key types.NamespacedName, np *networkingv1.NetworkPolicy, problems []policy.Problem) error {
	message := messageOf(problems)
	identity := fmt.Sprintf("%s %d %s", np.UID, np.Generation, message)

	p.mu.Lock()
	defer p.mu.Unlock()
	if len(problems) == 0 {
		delete(p.said, key)
		delete(p.known, key)
		delete(p.parts, key)
		p.count()
		return nil
	}
	if p.known[key] == identity {
		return nil
	}
	if p.parts[key] = len(problems); p.said[key] != identity {
		warn(p.log, "NetworkPolicy cannot be enforced as written: what is wrong in it allows nothing", "networkPolicy", key.String(), "problems", message)
		p.said[key] = identity
	}
	p.count()
	if p.client != nil {
		err := p.client.Create(ctx, p.event(np, identity, message))
		// In a namespace that is going, nothing can be created, nor read for long.
		if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return fmt.Errorf("reporting NetworkPolicy %s by an Event: %w", key, err)
		}
	}
	p.known[key] = identity
	return nil
}

func (p *Problems) count() {
	total := 0
	for _, n := range p.parts {
		total += n
	}
	p.metrics.problems.Set(float64(total))
}

func (p *Problems) event(np *networkingv1.NetworkPolicy, identity, message string) *corev1.Event {
	return warning(corev1.ObjectReference{
		APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy",
		Namespace: np.Namespace, Name: np.Name, UID: np.UID, ResourceVersion: np.ResourceVersion,
	}, p.node, ReasonNotEnforceable, identity, message)
}
