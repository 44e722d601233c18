package report

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// creating is an API server's part in creating Events: each call has its own outcome,
// the last one's is that of all further ones.
type creating struct {
	client.Writer
	mu       sync.Mutex
	outcomes []error
	names    []string
}

func (c *creating) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names = append(c.names, object.GetName())
	err := c.outcomes[0]
	if len(c.outcomes) > 1 {
		c.outcomes = c.outcomes[1:]
	}
	return err
}

func (c *creating) tried() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.names...)
}

func about(i int) *corev1.Event {
	return (&Events{node: "node"}).Warning(corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: fmt.Sprint("pod-", i)}, "Reason", "identity", "message")
}

// TestEventsAreTriedAgain: until they are there, or another agent has said the same; what
// holds no more is not said.
func TestEventsAreTriedAgain(t *testing.T) {
	g := NewWithT(t)
	exists := apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, "pod")
	server := &creating{outcomes: []error{errors.New("a webhook is away"), nil, exists}}
	registry := prometheus.NewRegistry()
	s := newEvents(server, "node", logr.Discard(), newMetrics(registry))
	s.Create(about(1))
	s.Create(about(1))
	s.Create(about(2))
	s.Drop(about(2))
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- s.Start(ctx) }()
	g.Eventually(server.tried).WithTimeout(time.Minute).Should(HaveLen(2))
	s.Create(about(3))
	count := func(result string) func() float64 {
		return func() float64 { return counted(t, registry, "podfence_events_total", result) }
	}
	g.Eventually(count("exists")).WithTimeout(time.Minute).Should(BeEquivalentTo(1))
	g.Expect(server.tried()).To(Equal([]string{about(1).Name, about(1).Name, about(3).Name}))
	g.Expect(count("error")()).To(BeEquivalentTo(1))
	g.Expect(count("created")()).To(BeEquivalentTo(1))
	g.Eventually(func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.waiting) }).WithTimeout(time.Minute).Should(BeZero())
	cancel()
	g.Eventually(ended).WithTimeout(time.Minute).Should(Receive(BeNil()))
}

// TestEventsAreBounded: an API server that takes none costs an agent so much memory, and
// no more.
func TestEventsAreBounded(t *testing.T) {
	g := NewWithT(t)
	registry := prometheus.NewRegistry()
	s := newEvents(&creating{}, "node", logr.Discard(), newMetrics(registry))
	for i := range maxEvents + 7 {
		s.Create(about(i))
	}
	s.Create(about(0)) // which waits already
	g.Expect(s.waiting).To(HaveLen(maxEvents))
	g.Expect(s.queue.Len()).To(Equal(maxEvents))
	g.Expect(counted(t, registry, "podfence_events_total", "dropped")).To(BeEquivalentTo(7))
	s.Drop(about(0))
	s.Create(about(maxEvents + 7))
	g.Expect(s.waiting).To(HaveKey(client.ObjectKeyFromObject(about(maxEvents + 7))))
	var none *Events // no API server
	none.Create(about(1))
	none.Drop(about(1))
}

// counted is the value of a counter whose only label has this value.
func counted(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name && metric.GetLabel()[0].GetValue() == label {
				return metric.GetCounter().GetValue()
			}
		}
	}
	return 0
}
