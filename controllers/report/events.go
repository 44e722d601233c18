package report

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// eventTimeout is how long the API server may take to create an Event: a webhook
	// may keep it for up to 30 s.
	eventTimeout = 10 * time.Second
	// maxEvents is how many Events may wait at once. More are dropped, and counted.
	maxEvents = 1000
	// EventRate and EventBurst bound how many Events an agent creates, per second and at once,
	// because every agent of the cluster has the same to say.
	EventRate, EventBurst = 5, 25
)

// Events creates Events beside everything else. Whoever has something to say leaves it here and
// goes on, because the API server may take long to accept it, or refuse it for long.
//
// A nil *Events is for agents without an API server: it drops everything.
type Events struct {
	writer  client.Writer
	node    string
	log     logr.Logger
	metrics *Metrics

	// queue has the names of those in waiting, which are to be created. Each is tried
	// again, less and less often, until it is there or taken back.
	queue workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu      sync.Mutex
	waiting map[types.NamespacedName]*corev1.Event
	// failing says that the last try failed, which is logged.
	failing bool
}

func newEvents(writer client.Writer, node string, log logr.Logger, m *Metrics) *Events {
	if writer == nil {
		return nil
	}
	return &Events{
		writer: writer, node: node, log: log.WithName("events"), metrics: m,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](time.Second, 5*time.Minute)),
		waiting: map[types.NamespacedName]*corev1.Event{},
	}
}

// Create has an Event created later, unless there is one of its name already. It never waits.
func (s *Events) Create(event *corev1.Event) {
	if s == nil {
		return
	}
	name := client.ObjectKeyFromObject(event)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, waits := s.waiting[name]; !waits && len(s.waiting) >= maxEvents {
		s.metrics.event("dropped")
		return
	}
	s.waiting[name] = event
	s.queue.Add(name)
}

// Drop takes back an Event whose text holds no longer, if it has not been created yet.
func (s *Events) Drop(event *corev1.Event) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, client.ObjectKeyFromObject(event))
}

// Start creates Events until ctx is done. What waits then is not created: the next agent
// finds the same to say. It implements manager.Runnable.
func (s *Events) Start(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.queue.ShutDown)()
	for {
		name, ended := s.queue.Get()
		if ended {
			return nil
		}
		s.try(ctx, name)
		s.queue.Done(name)
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent
// reports.
func (*Events) NeedLeaderElection() bool { return false }

// +kubebuilder:rbac:groups="",resources=events,verbs=create

// try creates an Event, or has it tried again.
func (s *Events) try(ctx context.Context, name types.NamespacedName) {
	s.mu.Lock()
	event, waits := s.waiting[name]
	s.mu.Unlock()
	if !waits {
		s.queue.Forget(name)
		return
	}
	limited, cancel := context.WithTimeout(ctx, eventTimeout)
	err := s.writer.Create(limited, event.DeepCopy())
	cancel()
	result := "created"
	switch {
	case apierrors.IsAlreadyExists(err): // this agent or another has said so before
		result, err = "exists", nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// Nothing can be created there any more, nor read for long.
		result, err = "dropped", nil
	case err != nil:
		result = "error"
	}
	s.metrics.event(result)
	s.mu.Lock()
	news := s.failing != (err != nil)
	s.failing = err != nil
	if err == nil && s.waiting[name] == event {
		delete(s.waiting, name)
	}
	s.mu.Unlock()
	switch {
	case err == nil:
		s.queue.Forget(name)
	case ctx.Err() == nil:
		if news {
			s.log.Error(err, "Cannot create Events: what they say is in the log; trying again", "event", name.String(), "reason", event.Reason)
		}
		s.queue.AddRateLimited(name)
	}
}

// maxEventMessage is the API server's limit (NoteLengthLimit in
// k8s.io/kubernetes/pkg/apis/core/validation/events.go).
const maxEventMessage = 1024

// Warning is an Event about an object, by this node. Its name is made from the identity of
// what it says: the same thing said twice, or by two nodes, is one Event.
func (s *Events) Warning(about corev1.ObjectReference, reason, identity, message string) *corev1.Event {
	node := ""
	if s != nil {
		node = s.node
	}
	if len(message) > maxEventMessage {
		message = strings.ToValidUTF8(message[:maxEventMessage-3], "") + "..."
	}
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where Events about cluster-wide objects must be
	}
	now := metav1.NewTime(time.Now())
	sum := sha256.Sum256([]byte(identity))
	name := about.Name
	const suffix = 1 + 16
	if len(name) > 253-suffix {
		name = strings.TrimRight(name[:253-suffix], "-.")
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", name, sum[:8])},
		InvolvedObject: about,
		Type:           corev1.EventTypeWarning, Reason: reason, Message: message,
		Source:              corev1.EventSource{Component: "podfence", Host: node},
		ReportingController: "podfence", ReportingInstance: node,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
}
