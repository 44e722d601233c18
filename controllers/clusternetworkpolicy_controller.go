package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/controllers/relist"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// clusterPolicies feeds ClusterNetworkPolicies, and reports what of them cannot be enforced. A cluster
// has that kind if somebody has installed its CustomResourceDefinition, which may come, go and change
// its versions while the agent runs. A controller of the manager would wait for it for good, so
// clusterPolicies lists and watches by itself.
//
// What was fed stays until the API server says otherwise: by a watch, by a list, or by not knowing the
// kind any more (see missing). No other answer takes anything back.
type clusterPolicies struct {
	*Source
	kind clusterKind
	log  logr.Logger
	// reflector lists and watches, and calls Add, Update, Delete and Replace. It is the same one for
	// all versions of the kind, because it remembers how new a list has to be: with a list of an API
	// server that is behind, the model would go back in time.
	reflector *toolscache.Reflector
	// known is closed when all that there was at the start has been fed, or the kind is not there.
	known chan struct{}
	// look has a token when somebody has seen that the kind is there.
	look chan struct{}

	// The fields up to mu belong to the goroutine of Start. version is the one that is asked for.
	version string
	// missed is how often in a row the kind was not there.
	missed int
	// delay is how long to wait after the next failure, failure is the last one, and failed how often
	// in a row it was that.
	delay   time.Duration
	failure string
	failed  int

	mu sync.Mutex
	// served is the version of what was fed last; empty: the kind is not there, or not yet known.
	served string
	// kept is what is kept of the policies that have been fed, by name.
	kept map[string]fedPolicy
}

// +kubebuilder:rbac:groups=policy.networking.k8s.io,resources=clusternetworkpolicies,verbs=list;watch

// lookEvery is how often, on average, an agent looks whether the kind has come. Each look is one small
// GET, which takes 0.3 ms of an API server's processor. Agents of 5,000 nodes make 1,000 of them in a
// second, spread evenly, as each waits for a random time; and none as soon as the kind is there (ADR
// 51). Only tests, which have one agent, change it.
var lookEvery = 5 * time.Second

// After a failure it is tried again after firstDelay, and later less and less often, up to maxDelay, as
// the watches of other kinds are.
const firstDelay, maxDelay = time.Second, 30 * time.Second

func newClusterPolicies(s *Source, kind clusterKind, log logr.Logger) *clusterPolicies {
	c := &clusterPolicies{
		Source: s, kind: kind, log: log, known: make(chan struct{}), look: make(chan struct{}, 1), delay: firstDelay,
		kept: map[string]fedPolicy{},
	}
	requests := &toolscache.ListWatch{ListWithContextFunc: c.listAll, WatchFuncWithContext: c.watchAll}
	c.reflector = toolscache.NewReflectorWithOptions(relist.AfterEachWatch(requests), &clusterv1beta1.ClusterNetworkPolicy{}, c, toolscache.ReflectorOptions{Name: "clusternetworkpolicies"})
	return c
}

// Start implements manager.Runnable.
func (c *clusterPolicies) Start(ctx context.Context) error {
	for ctx.Err() == nil {
		began := time.Now()
		err := c.listAndWatch(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, relist.ErrEnded):
		case c.isMissing(ctx, err):
			c.missing(ctx)
		default:
			c.broken(ctx, err, time.Since(began))
		}
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent works.
func (*clusterPolicies) NeedLeaderElection() bool { return false }

// awaitKnown waits until all that there was at the start has been fed.
func (c *clusterPolicies) awaitKnown(ctx context.Context) error {
	select {
	case <-c.known:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("watching ClusterNetworkPolicies: the API server has not said in time whether it has any: %w", context.Cause(ctx))
	}
}

// policy returns a policy that was fed, without its specification; nil: there is none.
func (c *clusterPolicies) policy(name string) *clusterv1beta1.ClusterNetworkPolicy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept[name].bare()
}

// whole returns a policy as it was fed; nil: there is none.
func (c *clusterPolicies) whole(name string) *clusterv1beta1.ClusterNetworkPolicy {
	c.mu.Lock()
	fed, is := c.kept[name]
	c.mu.Unlock()
	if !is {
		return nil
	}
	whole, err := fed.whole()
	if err != nil {
		return nil // what was packed here can be unpacked
	}
	return whole
}

// among are those policies, as they were fed, whose metadata is among what is asked for.
func (c *clusterPolicies) among(is func(client.Object) bool) (all []*clusterv1beta1.ClusterNetworkPolicy, err error) {
	c.mu.Lock()
	kept := slices.Collect(maps.Values(c.kept))
	c.mu.Unlock()
	for _, fed := range kept {
		if !is(fed.bare()) {
			continue
		}
		whole, err := fed.whole()
		if err != nil {
			return nil, err
		}
		all = append(all, whole)
	}
	return all, nil
}

// listAndWatch feeds what there is of the best version that is served, until the watch ends or breaks.
// It ends when the kind's definition changes, and after some minutes. Then there may be a better
// version, and what was sent may lack fields (see relist.AfterEachWatch). So each agent reads all
// policies every 5 to 10 minutes, at random, besides when the definition changes or an API server goes:
// those of 5,000 nodes do so 11 times in a second. It is a kind of which a cluster has few (ADR 51).
// listAndWatch returns that the kind is not found only if no version is.
func (c *clusterPolicies) listAndWatch(ctx context.Context) (err error) {
	for _, c.version = range clusterVersions {
		if err = c.reflector.ListAndWatchWithContext(ctx); !apierrors.IsNotFound(err) {
			return err
		}
	}
	return err
}

// listAll lists for the reflector.
func (c *clusterPolicies) listAll(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	return c.kind.list(ctx, c.version, o)
}

// watchAll watches for the reflector.
func (c *clusterPolicies) watchAll(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return c.kind.watch(ctx, c.version, o)
}

// isMissing reports whether an error says that the kind is not there, and discovery says so too. An
// agent that may not read the kind is told just that, whether it is there or not. Discovery is open to
// everybody.
func (c *clusterPolicies) isMissing(ctx context.Context, err error) bool {
	if !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return false
	}
	offered, err := c.kind.offered(ctx)
	return err == nil && !offered
}

// missing waits until the kind may be there again. As long as it is not, there can be no policies: so
// those that were fed, and whose end no watch has shown, are taken back.
//
// kube-apiserver answers "not found" only when it knows all kinds. Until then, as while it starts, it
// says that it is unavailable (hasCRDInformerSyncedSignal in
// k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go, and pkg/util/notfoundhandler of
// k8s.io/apiserver). But of two API servers one may know a change of the definition before the other,
// and while the versions change they may together say of each that it is not there. Hence nothing is
// taken back before a second look, some seconds later, finds none either.
func (c *clusterPolicies) missing(ctx context.Context) {
	if c.missed++; c.missed == 1 && len(c.kept) > 0 {
		c.sleep(ctx, wait.Jitter(lookEvery*4/5, 0.5))
		return
	}
	c.apply(nil, slices.Collect(maps.Keys(c.kept)))
	c.succeeded("")
	for {
		c.sleep(ctx, wait.Jitter(lookEvery*4/5, 0.5))
		if offered, err := c.kind.offered(ctx); ctx.Err() != nil || offered && err == nil {
			return
		}
	}
}

// broken says why the policies cannot be read, or watched any longer, and waits before the next try.
// lasted is for how long they were. err is nil if a watch has ended for no reason of the kind's.
func (c *clusterPolicies) broken(ctx context.Context, err error, lasted time.Duration) {
	c.missed = 0
	if lasted > maxDelay {
		c.delay = firstDelay
	}
	if text := fmt.Sprint(err); text != c.failure {
		c.failure, c.failed = text, 0
	}
	// What passes at once is no news. That the kind is not found, though discovery shows it, is usual
	// while it comes or goes.
	if c.failed++; c.failed == 2 && err != nil {
		c.log.Error(err, "Cannot read ClusterNetworkPolicies: those read before stay in force, and an agent that has read none yet does not start; trying again")
	}
	if isRefused(err) {
		hint := "see why the API server refuses"
		if apierrors.IsForbidden(err) {
			hint = "apply the ClusterRole of this version of podfence"
		}
		c.report.Health.Set(report.ClusterPoliciesUnread, fmt.Errorf("the API server has ClusterNetworkPolicies, and this agent cannot read them: %s: %w", hint, err))
	}
	c.sleep(ctx, wait.Jitter(c.delay, 1))
	c.delay = min(2*c.delay, maxDelay)
}

// succeeded notes that the API server has said what there is, of which version; empty: of none.
func (c *clusterPolicies) succeeded(version string) {
	c.mu.Lock()
	news := c.served != version
	c.served = version
	c.mu.Unlock()
	c.failure, c.failed = "", 0
	c.report.Health.Set(report.ClusterPoliciesUnread, nil)
	select {
	case <-c.known:
	default:
		news = true
		close(c.known)
	}
	switch {
	case !news:
	case version == "":
		c.log.Info("The API server does not have ClusterNetworkPolicies; looking for them every few seconds")
	default:
		c.log.Info("Watching ClusterNetworkPolicies", "version", version)
	}
}

// sleep waits for a time, or until somebody has seen that the kind is there.
func (c *clusterPolicies) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	case <-c.look:
	}
}

// Add implements toolscache.ReflectorStore, as do the next four.
func (c *clusterPolicies) Add(object any) error { return c.Update(object) }

// Update feeds a policy as it is now.
func (c *clusterPolicies) Update(object any) error {
	c.apply([]*clusterv1beta1.ClusterNetworkPolicy{c.keep(object)}, nil)
	return nil
}

// Delete feeds the end of a policy.
func (c *clusterPolicies) Delete(object any) error {
	c.apply(nil, []string{object.(*clusterv1beta1.ClusterNetworkPolicy).Name})
	return nil
}

// Replace feeds how a list differs from what was fed.
func (c *clusterPolicies) Replace(list []any, _ string) error {
	gone := maps.Clone(c.kept)
	packer := newPacker()
	var changed []*clusterv1beta1.ClusterNetworkPolicy
	for _, object := range list {
		cnp := object.(*clusterv1beta1.ClusterNetworkPolicy)
		was, fed := gone[cnp.Name]
		delete(gone, cnp.Name)
		if !fed || !was.is(cnp, packer) {
			changed = append(changed, cnp)
		}
	}
	// Those that are gone make room for others.
	c.apply(nil, slices.Collect(maps.Keys(gone)))
	for i := range changed {
		changed[i] = c.keep(changed[i])
	}
	c.apply(changed, nil)
	c.missed = 0
	c.succeeded(c.version)
	return nil
}

// Resync has nothing to do, because what was fed is in the model.
func (c *clusterPolicies) Resync() error { return nil }

// keep is what is fed of an object that the reflector brings. It notes when that is.
func (c *clusterPolicies) keep(object any) *clusterv1beta1.ClusterNetworkPolicy {
	c.report.Enforcement.Arrived(policy.Key{Name: object.(*clusterv1beta1.ClusterNetworkPolicy).Name})
	kept := c.clusterSizes.keep(object.(*clusterv1beta1.ClusterNetworkPolicy))
	kept.TypeMeta = metav1.TypeMeta{APIVersion: clusterGroup + "/" + c.version, Kind: clusterNetworkPolicyKind}
	return kept
}

// apply feeds policies as they are now, and the end of others. Then it reports what is wrong with
// them. As only one goroutine calls it, the policies are still the newest when it feeds them, and
// they can be parsed before the step in which nothing else can be fed.
func (c *clusterPolicies) apply(changed []*clusterv1beta1.ClusterNetworkPolicy, gone []string) {
	var changes []policy.Change
	for _, name := range gone {
		changes = append(changes, policy.DeletePolicy(policy.Key{Name: name}))
	}
	problems := make([][]policy.Problem, len(changed))
	for i, cnp := range changed {
		var parsed policy.Policy
		parsed, problems[i] = parseClusterPolicy(cnp)
		changes = append(changes, policy.SetPolicy(parsed))
	}
	if len(changes) == 0 {
		return
	}
	_ = c.feed(func() ([]policy.Change, error) { return changes, nil }, func(fed uint64) { c.note(changed, gone, fed) }) // only reading can fail
	for _, name := range gone {
		c.report.Problems.Gone(policy.Key{Name: name})
		c.report.Counting.Gone(policy.Key{Name: name})
		c.report.Staged.Gone(policy.Key{Name: name})
		c.report.Enforcement.Gone(policy.Key{Name: name})
	}
	for i, cnp := range changed {
		c.report.Counting.Set(cnp)
		c.report.Staged.Policy(cnp)
		c.report.Problems.Report(cnp, problems[i])
	}
}

// note notes what was fed, and what Feed has returned for it.
func (c *clusterPolicies) note(changed []*clusterv1beta1.ClusterNetworkPolicy, gone []string, fed uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range gone {
		delete(c.kept, name)
		c.clusterSizes.forget(policy.Key{Name: name})
		c.fed.delete(clusterScope, name)
	}
	if len(changed) == 0 {
		return
	}
	packer := newPacker()
	for _, cnp := range changed {
		c.kept[cnp.Name] = packer.keep(cnp)
		c.fed.set(clusterScope, cnp)
		c.report.Enforcement.Fed(cnp, fed)
	}
}

// list lists for an ADD. If the kind has come and is not watched yet, that begins at once.
func (c *clusterPolicies) list(ctx context.Context, reader client.Reader) (listed, error) {
	c.mu.Lock()
	served := c.served
	c.mu.Unlock()
	if served == "" {
		switch offered, err := c.kind.offered(ctx); {
		case err != nil:
			return listed{}, err
		case !offered:
			return nothingOf(clusterScope), nil
		}
		select {
		case c.look <- struct{}{}:
		default:
		}
	}
	for _, version := range clusterVersions {
		l, err := listMetadata(ctx, reader, clusterScope, clusterGroupVersion(version))
		if !apierrors.IsNotFound(err) {
			return l, err
		}
	}
	return nothingOf(clusterScope), nil
}
