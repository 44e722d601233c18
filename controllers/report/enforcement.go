package report

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
)

// Enforcement measures how long it takes until a policy that has come or changed is in the kernel: from the
// change itself, and from when the watch has told of it. What is the same when the agent starts is left out,
// and so are policies that select no pod of this node, and the ends of policies, of which nobody says when
// they were. Its methods may be called concurrently, and never wait.
type Enforcement struct {
	metrics *Metrics
	now     func() time.Time

	mu sync.Mutex
	// began is when the first commit was reported; zero: it has not been yet.
	began time.Time
	// arrived is when the watch has told of policies that have not been fed since.
	arrived map[policy.Key]time.Time
	// fed are policies that wait for their commit.
	fed map[policy.Key]change
	// last is the last commit, which may be reported before Fed is called for what it has.
	last commit
}

// commit is what is kept of a commit: only keys, as the rest is most of the agent's memory.
type commit struct {
	at       time.Time
	fed      uint64
	policies map[policy.Key]struct{}
	// unfinished are policies of which more is handed out later.
	unfinished map[policy.Key]struct{}
}

// change is a policy that was fed.
type change struct {
	// changed and arrived are when somebody changed it, zero if nobody says so, and when the watch told of
	// that.
	changed, arrived time.Time
	// fed is what Feed has returned.
	fed uint64
	// begun: a commit has had a part of it.
	begun bool
}

func newEnforcement(m *Metrics) *Enforcement {
	return &Enforcement{metrics: m, now: time.Now, arrived: map[policy.Key]time.Time{}, fed: map[policy.Key]change{}}
}

// Arrived notes that the watch has told of a policy. If it has done so more than once before the policy is
// fed, the first time counts.
func (e *Enforcement) Arrived(key policy.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, waits := e.arrived[key]; !waits {
		e.arrived[key] = e.now()
	}
}

// Fed notes that a policy was fed as it is, and what Feed has returned for it.
func (e *Enforcement) Fed(object client.Object, fed uint64) {
	e.note(client.ObjectKeyFromObject(object), ChangedAt(object), fed)
}

// FedUndated does the same for a policy of which nobody says when it was changed, as in a folder, where objects
// have no managed fields. Only the time from when it has arrived is measured then.
func (e *Enforcement) FedUndated(key policy.Key, fed uint64) { e.note(key, time.Time{}, fed) }

func (e *Enforcement) note(key policy.Key, changed time.Time, fed uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	arrived, told := e.arrived[key]
	delete(e.arrived, key)
	if !told || e.began.IsZero() || arrived.Before(e.began) {
		return
	}
	now := change{changed: changed, arrived: arrived, fed: fed}
	if waits, is := e.fed[key]; is { // the earlier change is not in force either
		now.changed, now.arrived, now.begun = waits.changed, waits.arrived, waits.begun
	}
	e.fed[key] = now
	if fed <= e.last.fed {
		e.done(key, now)
	}
}

// Gone notes that a policy is gone.
func (e *Enforcement) Gone(key policy.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.arrived, key)
	delete(e.fed, key)
}

// committed notes a commit.
func (e *Enforcement) committed(c enforcer.Committed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = commit{at: e.now(), fed: c.Fed, policies: map[policy.Key]struct{}{}, unfinished: c.Delta.Unfinished}
	if e.began.IsZero() {
		e.began = e.last.at
	}
	for key, now := range c.Delta.Policies {
		if now != nil {
			e.last.policies[key] = struct{}{}
		}
	}
	for key := range e.fed { // of all policies, only those that wait are looked for
		if c.Intent != nil && isIn(c.Intent.Policies, key) {
			e.last.policies[key] = struct{}{}
		}
	}
	for key, change := range e.fed {
		if change.fed <= c.Fed {
			e.done(key, change)
		}
	}
}

func isIn[V any](all map[policy.Key]V, key policy.Key) bool { _, is := all[key]; return is }

// done observes a policy that was fed before the last commit, if that was about it. Otherwise it selects no
// pod of this node, or says what it has said before. Of what is handed out bit by bit, the last part counts.
// The caller holds mu.
func (e *Enforcement) done(key policy.Key, change change) {
	change.begun = change.begun || isIn(e.last.policies, key)
	if isIn(e.last.unfinished, key) {
		e.fed[key] = change
		return
	}
	delete(e.fed, key)
	if change.begun {
		e.metrics.enforcedSinceWatch(e.last.at.Sub(change.arrived))
		if !change.changed.IsZero() {
			e.metrics.enforcedSinceChange(e.last.at.Sub(change.changed))
		}
	}
}

// ChangedAt is when somebody last changed an object, its status aside: the newest time of its managed
// fields, or when it was created. The API server says so in whole seconds.
func ChangedAt(object metav1.Object) time.Time {
	newest := object.GetCreationTimestamp().Time
	for _, entry := range object.GetManagedFields() {
		if entry.Subresource == "" && entry.Time != nil && entry.Time.After(newest) {
			newest = entry.Time.Time
		}
	}
	return newest
}

// ChangeTime is all that ChangedAt needs of the managed fields of an object: no entry, or one without
// fields. Caches keep it instead of them.
func ChangeTime(object metav1.Object) []metav1.ManagedFieldsEntry {
	changed := metav1.NewTime(ChangedAt(object))
	if created := object.GetCreationTimestamp(); created.Equal(&changed) {
		return nil
	}
	return []metav1.ManagedFieldsEntry{{Time: &changed}}
}
