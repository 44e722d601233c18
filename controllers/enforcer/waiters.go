package enforcer

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
)

// waiters are those who wait for something of the inbox, whose mutex guards them.
type waiters struct {
	commits map[*commitWaiter]struct{}
	pods    map[policy.AttachmentKey]map[*podWaiter]struct{}
}

func newWaiters() waiters {
	return waiters{commits: map[*commitWaiter]struct{}{}, pods: map[policy.AttachmentKey]map[*podWaiter]struct{}{}}
}

// commitWaiter waits until what was fed is in the kernel.
type commitWaiter struct {
	// need is how many times changes were fed, and scope what of them is waited for where it is
	// handed out bit by bit.
	need  uint64
	scope scope
	// taken: once the last batch is in the kernel, all that is waited for is.
	taken bool
	// Done is closed when it is.
	Done chan struct{}
}

// scope is what somebody waits for of what is handed out bit by bit.
type scope struct {
	// everything, or else what packets of a namespace's pods meet, and whether the addresses
	// are still peers of whom they are no more. Without a namespace it is nothing.
	everything bool
	namespace  string
	addrs      []netip.Addr
}

// The scopes.
func everything() scope { return scope{everything: true} }
func nothing() scope    { return scope{} }
func ofNamespace(name string, addrs []netip.Addr) scope {
	return scope{namespace: name, addrs: addrs}
}

// waits reports whether something of the scope is still to be handed out.
func (s scope) waits(m *policy.Model) bool {
	switch {
	case s.everything:
		return m.Staging()
	case s.namespace != "":
		return m.StagingOf(s.namespace, s.addrs)
	}
	return false
}

// forCommit adds one who waits for what was fed so often. The last batch, with what was fed
// planned times, may be on its way into the kernel.
func (w *waiters) forCommit(need, planned uint64, s scope, m *policy.Model) *commitWaiter {
	one := &commitWaiter{need: need, scope: s, Done: make(chan struct{})}
	one.note(planned, m)
	w.commits[one] = struct{}{}
	return one
}

// note notes whether what a waiter waits for is all in the last batch. The model must be as that
// has left it, or have been fed since.
func (c *commitWaiter) note(planned uint64, m *policy.Model) {
	c.taken = c.need <= planned && !c.scope.waits(m)
}

// taken notes a batch, before more is fed.
func (w *waiters) taken(planned uint64, m *policy.Model) {
	for one := range w.commits {
		one.note(planned, m)
	}
}

// settled tells those who wait for what the last batch had, which is in the kernel now.
func (w *waiters) settled() {
	for one := range w.commits {
		if one.taken {
			close(one.Done)
			delete(w.commits, one)
		}
	}
}

func (w *waiters) forgetCommit(one *commitWaiter) { delete(w.commits, one) }

// podWaiter waits until the pod of an attachment is known.
type podWaiter struct {
	attachment policy.Attachment
	// Known gets the pod's UID, or nothing more if the attachment is gone.
	Known chan types.UID
}

// forPod adds one who waits for the pod of an attachment.
func (w *waiters) forPod(a policy.Attachment) *podWaiter {
	one := &podWaiter{attachment: a, Known: make(chan types.UID, 1)}
	if w.pods[a.Key()] == nil {
		w.pods[a.Key()] = map[*podWaiter]struct{}{}
	}
	w.pods[a.Key()][one] = struct{}{}
	return one
}

// fed tells those whose pod has become known by what was fed, or whose attachment has gone.
func (w *waiters) fed(m *policy.Model) {
	for _, key := range m.ChangedAttached() {
		for one := range w.pods[key] {
			uid, known := m.Attached(one.attachment)
			if known {
				one.Known <- uid
			}
			if gone := !m.Has(key); known || gone {
				close(one.Known)
				w.forgetPod(one)
			}
		}
	}
}

func (w *waiters) forgetPod(one *podWaiter) {
	key := one.attachment.Key()
	if delete(w.pods[key], one); len(w.pods[key]) == 0 {
		delete(w.pods, key)
	}
}
