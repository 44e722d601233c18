package announcements

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// Options are what an Announcer is told.
type Options struct {
	// Node is the name of this node.
	Node string
	// Client asks the API server without a cache. It should have Rate and Burst.
	Client client.Client
	// Require has an ADD fail, rather than come late, if its addresses cannot be announced.
	Require bool
	// Pod is what the API shows of a pod; nil: it is not known, or policy does not see it.
	Pod func(policy.Key) *policy.Pod
	// NodeUID is the UID of this node's Node; empty: it is not known. What was announced goes with
	// the Node.
	NodeUID func() types.UID
	// Attachments are what the CNI plugin has made and not removed.
	Attachments func() []policy.Attachment
	// Synced waits until Pod and Attachments know all that there was at the start.
	Synced func(context.Context) error
	// Trust says whether announcements can be trusted in this cluster.
	Trust *Trust
	// Report gets what has become of each.
	Report Report
	Log    logr.Logger
}

// Report counts what has become of announcements.
type Report interface {
	// Announced says whether an ADD's addresses were announced before it was answered.
	Announced(err error)
}

const (
	// Rate and Burst bound how often an agent writes, per second and at once. What is to be
	// announced meanwhile goes together with the next.
	Rate, Burst = 20, 50
	// addTimeout is how long an ADD waits at most, unless Require is set: a pod starts late rather
	// than not at all. It is longer than an API server takes to come back behind its load balancer
	// or to choose a leader of etcd, and short beside the start of a pod that waits for an image.
	addTimeout = 5 * time.Second
	// firstRetry and lastRetry are how long it waits before it tries to write again, at first and
	// in the end.
	firstRetry, lastRetry = 50 * time.Millisecond, time.Second
	// seenTimeout is how long what was written may take to be seen again. If it is not, somebody
	// else has written.
	seenTimeout = time.Second
	// pruneEvery is how often the object is written only because pods in it need not be there any
	// more: their status shows the same. It does no harm that they are, and most of the time the
	// next ADD's write takes them out.
	pruneEvery = 5 * time.Minute
	// most is how many pods one object may have (see v1alpha1.PodAddresses).
	most = 1024
)

// Announcer keeps this node's PodAddresses as they should be. One write is under way at a time: an
// ADD that comes while there is none is written at once, and those that come meanwhile go together
// with the next. Its methods may be called concurrently.
type Announcer struct {
	Options
	wake chan struct{}
	// timeout is addTimeout, but for tests.
	timeout time.Duration

	// mu guards the fields below.
	mu sync.Mutex
	// pods are the pods whose primary interface was made last by which attachment.
	pods map[policy.Key]announced
	// next is closed when the API server has what the next write has.
	next chan struct{}
	// failure is why the last write has failed; nil: it has not.
	failure error
	// sent is what was written last, and seen what the watch has shown last, if it has.
	sent, seen []v1alpha1.PodAddress
	hasSeen    bool

	// object is what the API server has, as far as is known; nil: nothing. It belongs to Start's
	// goroutine.
	object *v1alpha1.PodAddresses
}

// announced is one pod, and the attachment whose addresses it has.
type announced struct {
	by   policy.AttachmentKey
	said v1alpha1.PodAddress
}

// New returns an Announcer. Start has it work.
func New(o Options) *Announcer {
	return &Announcer{Options: o, wake: make(chan struct{}, 1), timeout: addTimeout, pods: map[policy.Key]announced{}, next: make(chan struct{})}
}

// Announce has the addresses of an attachment announced as its pod's, which needs its UID. The
// function that it returns waits until the API server has them, as long as Options say, and fails
// only if the ADD should. Of a pod's interfaces only the primary is announced, as only that will be
// in the pod's status.
func (a *Announcer) Announce(at policy.Attachment) (wait func(context.Context) error) {
	if at.IfName != policy.PrimaryInterface {
		return func(context.Context) error { return nil }
	}
	said := v1alpha1.PodAddress{
		Namespace: at.Pod.Namespace, Name: at.Pod.Name, UID: at.UID, IPs: texts(at.IPs), Since: v1alpha1.Now(),
	}
	// Those that the API shows are of an earlier sandbox of the pod.
	if pod := a.Pod(at.Pod); pod != nil && pod.IsOf(at.UID) {
		said.Supersedes = texts(pod.IPs)
	}
	a.mu.Lock()
	a.pods[at.Pod] = announced{at.Key(), said}
	next := a.next
	a.mu.Unlock()
	a.wakeUp()
	return func(ctx context.Context) error { return a.await(ctx, next) }
}

func (a *Announcer) await(ctx context.Context, written <-chan struct{}) error {
	if !a.Require {
		timeout := a.timeout
		if deadline, is := ctx.Deadline(); is { // the ADD must still be answered in time
			timeout = min(timeout, time.Until(deadline)/2)
		}
		short, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		ctx = short
	}
	err := a.awaitWritten(ctx, written)
	if errors.Is(err, ErrOff) && !a.Require {
		return nil
	}
	a.Report.Announced(err)
	if err != nil && a.Require {
		return fmt.Errorf("other nodes cannot be told of its addresses, which --peers-first requires: %w", err)
	}
	return nil
}

// awaitWritten waits until something is written, or announcements are off.
func (a *Announcer) awaitWritten(ctx context.Context, written <-chan struct{}) error {
	for {
		changed := a.Trust.changed()
		if err := a.Trust.Await(ctx); err != nil {
			return err
		}
		select {
		case <-written:
			return nil
		case <-changed:
		case <-ctx.Done():
			return cmp.Or(a.lastFailure(), context.Cause(ctx))
		}
	}
}

func (a *Announcer) lastFailure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failure
}

// Withdraw says that an attachment is gone, whether or not it was announced. That is written at
// once, unless the pod's status shows the same: then it means nothing any more.
func (a *Announcer) Withdraw(key policy.AttachmentKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for pod, is := range a.pods {
		if is.by == key {
			delete(a.pods, pod)
			if !a.isShown(is.said) {
				a.wakeUp()
			}
		}
	}
}

// isShown reports whether a pod's status shows what was announced of it.
func (a *Announcer) isShown(said v1alpha1.PodAddress) bool {
	pod := a.Pod(policy.Key{Namespace: said.Namespace, Name: said.Name})
	return pod != nil && pod.IsOf(said.UID) && slices.Equal(texts(pod.IPs), said.IPs)
}

func (a *Announcer) wakeUp() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Seen says what the watch has shown of this node's object; nil: there is none. If it is not what
// was written last, and does not become that, somebody else has changed it.
func (a *Announcer) Seen(o *v1alpha1.PodAddresses) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen, a.hasSeen = nil, true
	if o != nil {
		a.seen = o.Pods
	}
	if !equal(a.seen, a.sent) {
		a.wakeUp()
	}
}

// isChanged reports whether the API server has something else than was written last, by what was
// seen last.
func (a *Announcer) isChanged() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hasSeen && !equal(a.seen, a.sent)
}

// equal reports whether two lists have the same.
func equal(a, b []v1alpha1.PodAddress) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

// Start writes what is to be announced until ctx is done. Then it takes nothing back, as the pods
// go on. It implements manager.Runnable.
func (a *Announcer) Start(ctx context.Context) error {
	if a.Synced(ctx) != nil {
		return nil
	}
	var waiting []chan struct{}
	retry := time.Duration(0) // after a failure
	// read says that the object must be read before it is written: at the start, and when somebody
	// else may have written it.
	read, restored := true, false
	for {
		trust := a.Trust.changed()
		err := a.Trust.Await(ctx)
		if ctx.Err() != nil {
			return nil
		}
		read = read || errors.Is(err, ErrOff)
		if err == nil && read {
			err = a.read(ctx)
			read = err != nil
		}
		if err == nil && !restored {
			a.restore()
			restored = true
		}
		if err == nil {
			var pods []v1alpha1.PodAddress
			a.mu.Lock()
			waiting, a.next = append(waiting, a.next), make(chan struct{})
			pods = a.wanted()
			a.sent = pods
			a.mu.Unlock()
			err = a.write(ctx, pods)
		}
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			a.Trust.Doubt()
		}
		if errors.Is(err, ErrOff) {
			err = nil // Trust says so
		} else if err == nil {
			for _, written := range waiting {
				close(written)
			}
			waiting = nil
		}
		if retry = a.failed(err, retry); err != nil {
			sleep(ctx, retry)
			continue
		}
		again := pruneEvery
		if a.isChanged() && !read {
			again = seenTimeout
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-trust:
		case <-time.After(again):
			read = read || a.isChanged()
		}
	}
}

// failed notes how a write has ended, and returns after how long to try again if it has failed.
func (a *Announcer) failed(err error, last time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := err != nil && a.failure == nil
	if a.failure = err; err == nil {
		return 0
	}
	if first {
		a.Log.Error(err, "Cannot tell other nodes of new pods' addresses; trying again. Their pods know of them when the pods' status shows them")
	}
	return min(max(2*last, firstRetry), lastRetry)
}

// wanted is what the API server should have: the pods whose status does not show the same yet, in
// order. The caller holds mu.
func (a *Announcer) wanted() (pods []v1alpha1.PodAddress) {
	for _, is := range a.pods {
		if !a.isShown(is.said) {
			pods = append(pods, is.said)
		}
	}
	slices.SortFunc(pods, func(a, b v1alpha1.PodAddress) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return pods[max(len(pods)-most, 0):]
}

// restore takes over what an earlier agent of this node has announced, as far as it still holds.
func (a *Announcer) restore() {
	if a.object == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	made := a.Attachments() // whoever removes one of them withdraws it afterwards
	for _, said := range a.object.Pods {
		key := policy.Key{Namespace: said.Namespace, Name: said.Name}
		at := slices.IndexFunc(made, func(at policy.Attachment) bool {
			return at.Pod == key && at.UID == said.UID && at.IfName == policy.PrimaryInterface && reflect.DeepEqual(texts(at.IPs), said.IPs)
		})
		if _, newer := a.pods[key]; at >= 0 && !newer {
			a.pods[key] = announced{made[at].Key(), said}
		}
	}
}

// texts are addresses in order, as text.
func texts(ips []netip.Addr) (texts []string) {
	for _, ip := range slices.SortedFunc(slices.Values(ips), netip.Addr.Compare) {
		texts = append(texts, ip.String())
	}
	return texts
}

// sleep returns after a while, or when ctx is done.
func sleep(ctx context.Context, while time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(while):
	}
}
