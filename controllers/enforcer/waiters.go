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
	// need is what inbox.fed was when it began to wait. scope says for what it waits of that which
	// is handed out bit by bit.
	need  uint64
	scope scope
	// taken says that all that it waits for is in the kernel as soon as the last batch is.
	taken bool
	// Done is closed when all of it is in the kernel.
	Done chan struct{}
}

// scope says for which part somebody waits of what is handed out bit by bit.
type scope struct {
	// everything is all of it. Otherwise, with a namespace, it is what packets of the namespace's
	// pods meet, and that the addresses cease to be peers where they are none any more. Without a
	// namespace it is nothing.
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
		return m.Pending()
	case s.namespace != "":
		return m.PendingOf(s.namespace, s.addrs)
	}
	return false
}

// forCommit adds a waiter for what had been fed when inbox.fed was need. planned is inbox.planned:
// the last batch may be on its way into the kernel.
func (w *waiters) forCommit(need, planned uint64, s scope, m *policy.Model) *commitWaiter {
	waiter := &commitWaiter{need: need, scope: s, Done: make(chan struct{})}
	waiter.note(planned, m)
	w.commits[waiter] = struct{}{}
	return waiter
}

// note notes whether what a waiter waits for is all in the last batch. The model must be as that
// has left it, or have been fed since.
func (c *commitWaiter) note(planned uint64, m *policy.Model) {
	c.taken = c.need <= planned && !c.scope.waits(m)
}

// taken notes a batch, before more is fed.
func (w *waiters) taken(planned uint64, m *policy.Model) {
	for waiter := range w.commits {
		waiter.note(planned, m)
	}
}

// settled tells those who waited for no more than what the last batch had, which is in the kernel
// now.
func (w *waiters) settled() {
	for waiter := range w.commits {
		if waiter.taken {
			close(waiter.Done)
			delete(w.commits, waiter)
		}
	}
}

func (w *waiters) forgetCommit(waiter *commitWaiter) { delete(w.commits, waiter) }

// podWaiter waits until the pod of an attachment is known.
type podWaiter struct {
	attachment policy.Attachment
	// Known gets the pod's UID, and is closed. If the attachment is gone, it is closed without one.
	Known chan types.UID
}

// forPod adds a waiter for the pod of an attachment.
func (w *waiters) forPod(a policy.Attachment) *podWaiter {
	waiter := &podWaiter{attachment: a, Known: make(chan types.UID, 1)}
	if w.pods[a.Key()] == nil {
		w.pods[a.Key()] = map[*podWaiter]struct{}{}
	}
	w.pods[a.Key()][waiter] = struct{}{}
	return waiter
}

// fed tells those whose pod has become known by what was fed, or whose attachment has gone.
func (w *waiters) fed(m *policy.Model) {
	for _, key := range m.ChangedAttached() {
		for waiter := range w.pods[key] {
			uid, known := m.Attached(waiter.attachment)
			if known {
				waiter.Known <- uid
			}
			if gone := !m.Has(key); known || gone {
				close(waiter.Known)
				w.forgetPod(waiter)
			}
		}
	}
}

func (w *waiters) forgetPod(waiter *podWaiter) {
	key := waiter.attachment.Key()
	if delete(w.pods[key], waiter); len(w.pods[key]) == 0 {
		delete(w.pods, key)
	}
}
