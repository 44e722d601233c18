package announcements

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/v1alpha1"
)

// ErrOff is that announcements are neither made nor believed, as the cluster does not refuse lies.
var ErrOff = errors.New("announcements are off in this cluster")

// liar is the name of an object that no agent may write, as no Node has it.
const liar = "podfence-says-what-is-not-so"

const (
	// How often to look: while announcements are on, and while they are off. The time is spread,
	// so that the agents of a cluster do not ask at once. Each look while they are on is a refused
	// request in the API server's audit log.
	lookWhileOn, lookWhileOff = time.Hour, time.Minute
	// lastLook is after how long it asks an API server again, in the end, that does not answer.
	lastLook = 5 * time.Second
)

// Trust finds out whether what agents announce can be believed: whether the API server takes from
// this agent what it says of its own node's pods, and refuses what it says of another's. It tries
// both, by writes that the API server does not keep (dry runs), as nothing else tells as surely what
// the admission policies of a cluster do. Its methods may be called concurrently.
type Trust struct {
	node   string
	client client.Client
	// tell is called with each change, by one goroutine.
	tell func(ctx context.Context, on bool) error
	log  logr.Logger
	// doubt has a token if it should look before the time.
	doubt chan struct{}

	mu sync.Mutex
	// known says that it is known whether announcements are on; reason is why they are not.
	known  bool
	reason error
	change chan struct{} // closed with the next change
}

// NewTrust returns a Trust that knows nothing yet. Start has it look. tell is told of every change.
func NewTrust(node string, c client.Client, tell func(ctx context.Context, on bool) error, log logr.Logger) *Trust {
	return &Trust{node: node, client: c, tell: tell, log: log, doubt: make(chan struct{}, 1), change: make(chan struct{})}
}

// Await waits until it is known whether announcements are on, and returns ErrOff with a reason if
// they are not.
func (t *Trust) Await(ctx context.Context) error {
	for {
		t.mu.Lock()
		known, reason, change := t.known, t.reason, t.change
		t.mu.Unlock()
		if known {
			return reason
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is not known yet whether the API server refuses false announcements: %w", context.Cause(ctx))
		case <-change:
		}
	}
}

// Doubt says that something was refused that should not be, so that it looks before the time; but not
// more often than while announcements are off.
func (t *Trust) Doubt() {
	select {
	case t.doubt <- struct{}{}:
	default:
	}
}

// changed is closed when it may be otherwise.
func (t *Trust) changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.change
}

// Start looks until ctx is done. It implements manager.Runnable.
func (t *Trust) Start(ctx context.Context) error {
	retry := time.Duration(0)
	last := time.Now().Add(-lookWhileOff)
	for {
		off := t.look(ctx)
		err := off
		if off == nil || errors.Is(off, ErrOff) {
			if err = t.set(ctx, off); err != nil && ctx.Err() == nil {
				t.log.Error(err, "Cannot have announcements read; trying again")
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil: // or the API server does not answer, which says nothing
			retry = min(max(2*retry, firstRetry), lastLook)
			sleep(ctx, retry)
		case off != nil:
			retry = 0
			sleep(ctx, spread(lookWhileOff))
		default:
			retry = 0
			t.untilDoubt(ctx, last)
		}
		last = time.Now()
	}
}

// untilDoubt waits until it is time to look again, which is earlier if there is a doubt. last is when it
// has looked before the last time.
func (t *Trust) untilDoubt(ctx context.Context, last time.Time) {
	due := time.After(spread(lookWhileOn))
	select {
	case <-ctx.Done():
	case <-due:
	case <-t.doubt:
		sleep(ctx, time.Until(last.Add(lookWhileOff)))
	}
}

// spread is between half of a time and one and a half of it.
func spread(t time.Duration) time.Duration { return t/2 + rand.N(t) }

// set notes whether announcements are on, and tells of it if that is new.
func (t *Trust) set(ctx context.Context, reason error) error {
	t.mu.Lock()
	same := t.known && (t.reason == nil) == (reason == nil)
	news := !t.known || text(t.reason) != text(reason)
	first := !t.known
	t.mu.Unlock()
	switch {
	case !news:
		return nil
	case reason != nil:
		t.log.Info("Other nodes' agents are not told of new pods' addresses, and not believed; they wait for the pods' status", "because", reason.Error())
	case !first:
		t.log.Info("Other nodes' agents are told of new pods' addresses")
	}
	if !same {
		if err := t.tell(ctx, reason == nil); err != nil {
			return err
		}
	}
	t.mu.Lock()
	t.known, t.reason = true, reason
	close(t.change)
	t.change = make(chan struct{})
	t.mu.Unlock()
	return nil
}

// text is what an error says; of none nothing.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// look tries a true and a false announcement. It fails with ErrOff if the one is refused, or the
// other is not, and with another error if the API server has not said.
func (t *Trust) look(ctx context.Context) error {
	switch err := t.try(ctx, t.node); {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: it has no PodAddresses (config/crd)", ErrOff)
	case apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the API server refuses what this agent says of its own node's pods; its service account token must be bound to its node (Kubernetes 1.30 or newer): %w", ErrOff, err)
	case err != nil && !apierrors.IsAlreadyExists(err):
		return err
	}
	switch err := t.try(ctx, liar); {
	case apierrors.IsForbidden(err) || apierrors.IsInvalid(err):
		return nil
	case err == nil || apierrors.IsAlreadyExists(err):
		return fmt.Errorf("%w: the API server takes what this agent says of another node's pods; the ValidatingAdmissionPolicy of config/admission is missing", ErrOff)
	default:
		return err
	}
}

// try has the API server say whether it would take an object of that name.
func (t *Trust) try(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return t.client.Create(ctx, &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: name}}, client.DryRunAll)
}
