package report

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// ReasonNotEnforceable is the reason of the Warning Event on a NetworkPolicy or a ClusterNetworkPolicy
// with a part that allows nothing because it cannot be read.
const ReasonNotEnforceable = "NotEnforceable"

// Problems reports what of policies cannot be enforced. Its methods may be called concurrently.
type Problems struct {
	events  *Events
	log     logr.Logger
	metrics *Metrics
	// policy returns a policy as the API has it, and quarantined says why one is quarantined.
	policy      func(policy.Key) client.Object
	quarantined func(policy.Key) []policy.Problem

	// wake holds a token while rechecks is not empty.
	wake chan struct{}

	mu    sync.Mutex
	known map[policy.Key]problem
	// parts is how many parts of the known ones cannot be enforced.
	parts int
	// versions are the resourceVersions of the policies as last reported, whether something was
	// wrong with them or not.
	versions map[policy.Key]string
	// rechecks are the policies to look at again.
	rechecks map[policy.Key]struct{}
}

// problem is what is wrong with a policy, as last reported.
type problem struct {
	// unread is what of the policy cannot be read, and refused why it is quarantined, if it is; kind is
	// the policy's.
	unread   []policy.Problem
	refused  []policy.Problem
	kind     string
	identity string
	parts    int
	event    *corev1.Event
}

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

func newProblems(events *Events, o Options, m *Metrics, quarantined func(policy.Key) []policy.Problem) *Problems {
	return &Problems{
		events: events, log: o.Log, metrics: m, policy: o.Policy, quarantined: quarantined,
		wake: make(chan struct{}, 1), known: map[policy.Key]problem{}, versions: map[policy.Key]string{}, rechecks: map[policy.Key]struct{}{},
	}
}

// Report says what is wrong with a policy, if that is news: in the log, in the
// podfence_policy_problems metric, and in a Warning Event. unread is what of the policy cannot be
// read; Report itself asks why the policy is quarantined. It never waits. Every node's agent finds
// the same, so the Event's name is made from what it says: one of the agents creates it, and the
// others find that it exists.
func (p *Problems) Report(object client.Object, unread []policy.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report(object, unread)
}

// PolicyProblems are what of a policy allows nothing.
type PolicyProblems struct {
	// Kind is NetworkPolicy or ClusterNetworkPolicy.
	Kind   string
	Policy policy.Key
	// Unread are the parts that cannot be read. Refused says why the policy is quarantined; it is empty if it
	// is not.
	Unread  []policy.Problem
	Refused []policy.Problem
}

// First are the problems of the first so many policies, in order of namespace and name: of a namespace, and of
// those that are in none, or of all if it is empty. count is how many policies have problems in all, and
// unread how many of them have parts that cannot be read.
func (p *Problems) First(most int, namespace string) (first []PolicyProblems, count, unread int) {
	p.mu.Lock()
	count = len(p.known)
	all := make([]PolicyProblems, 0, count)
	for key, of := range p.known {
		if len(of.unread) > 0 {
			unread++
		}
		if namespace != "" && key.Namespace != "" && key.Namespace != namespace {
			continue
		}
		all = append(all, PolicyProblems{Kind: of.kind, Policy: key, Unread: of.unread, Refused: of.refused}) // which nobody changes
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b PolicyProblems) int {
		return cmp.Or(strings.Compare(a.Policy.Namespace, b.Policy.Namespace), strings.Compare(a.Policy.Name, b.Policy.Name))
	})
	return all[:min(most, len(all))], count, unread
}

// Recheck has policies reported again that were quarantined or released, and have not changed
// otherwise. It never waits: Start does it. Without an API server it does nothing, as there is
// nobody to tell.
func (p *Problems) Recheck(keys []policy.Key) {
	if p.policy == nil || len(keys) == 0 {
		return
	}
	p.mu.Lock()
	for _, key := range keys {
		p.rechecks[key] = struct{}{}
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Start rechecks policies until ctx is done. It implements manager.Runnable.
func (p *Problems) Start(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			p.recheck()
		}
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent reports.
func (*Problems) NeedLeaderElection() bool { return false }

// recheck reports the policies again that are to be looked at. One of which the API has another
// version by now is reported when that comes.
func (p *Problems) recheck() {
	p.mu.Lock()
	keys := slices.Collect(maps.Keys(p.rechecks))
	clear(p.rechecks)
	p.mu.Unlock()
	for _, key := range keys {
		object := p.policy(key)
		p.mu.Lock()
		if object != nil && p.versions[key] == object.GetResourceVersion() {
			p.report(object, p.known[key].unread)
		}
		p.mu.Unlock()
	}
}

// Gone says that a policy is gone, so that nothing is wrong with it any more.
func (p *Problems) Gone(key policy.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.versions, key)
	p.forget(key)
}

// forget takes back what was reported of a policy. The caller holds mu.
func (p *Problems) forget(key policy.Key) {
	if was, is := p.known[key]; is {
		p.events.Drop(was.event)
		delete(p.known, key)
		p.count(-was.parts)
	}
}

// report is Report for who holds mu.
func (p *Problems) report(object client.Object, unread []policy.Problem) {
	key := client.ObjectKeyFromObject(object)
	p.versions[key] = object.GetResourceVersion()
	refused := p.quarantined(key)
	problems := slices.Concat(unread, refused)
	if len(problems) == 0 {
		p.forget(key)
		return
	}
	message := messageOf(problems)
	now := problem{unread: unread, refused: refused, kind: aboutPolicy(object).Kind, identity: fmt.Sprintf("%s %d %s", object.GetUID(), object.GetGeneration(), message), parts: len(problems)}
	was, is := p.known[key]
	if is && was.identity == now.identity {
		was.unread, was.refused = unread, refused
		p.known[key] = was
		return
	}
	if is {
		p.events.Drop(was.event)
	}
	about := aboutPolicy(object)
	warn(p.log, about.Kind+" cannot be enforced as written: what is wrong in it allows nothing", append(named(key), "problems", message)...)
	now.event = p.events.Warning(about, ReasonNotEnforceable, now.identity, message)
	p.known[key] = now
	p.count(now.parts - was.parts)
	p.events.Create(now.event)
}

// count notes that so many parts more cannot be enforced. The caller holds mu.
func (p *Problems) count(more int) {
	p.parts += more
	p.metrics.policyProblems(p.parts)
}

// aboutPolicy is what an Event about a policy names.
func aboutPolicy(object client.Object) corev1.ObjectReference {
	about := corev1.ObjectReference{
		APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy",
		Namespace: object.GetNamespace(), Name: object.GetName(), UID: object.GetUID(), ResourceVersion: object.GetResourceVersion(),
	}
	if cnp, is := object.(*clusterv1beta1.ClusterNetworkPolicy); is {
		about.Kind, about.APIVersion = "ClusterNetworkPolicy", cmp.Or(cnp.APIVersion, clusterv1beta1.GroupVersion.String())
	}
	return about
}
