package attachments

import (
	"context"
	"testing"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// announced is a client.Writer that hands out the Events it is to create, and does not
// answer before somebody takes them.
type announced struct {
	client.Writer
	events chan *corev1.Event
}

func (a *announced) Create(ctx context.Context, object client.Object, _ ...client.CreateOption) error {
	select {
	case a.events <- object.(*corev1.Event):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// eventsOf are the Events that a server has created from now on.
func eventsOf(t *testing.T, a *Server) <-chan *corev1.Event {
	events := &announced{events: make(chan *corev1.Event)}
	a.Report = report.New(report.Options{Node: "node", Log: logr.Discard(), Registry: prometheus.NewRegistry(), Writer: events})
	go func() { _ = a.Report.Events.Start(t.Context()) }()
	return events.events
}

// TestUnservedEvent: a pod that asks for a hostPort in vain, a static one among them, is
// connected without waiting for the API server, and its Event says why it does nothing.
func TestUnservedEvent(t *testing.T) {
	a, _ := answering(t, t.TempDir(), nil)
	events := eventsOf(t, a)
	static, live := policy.PodOf(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "static", UID: "mirror", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "hash"}},
		Spec:       corev1.PodSpec{NodeName: "node"},
	})
	if !live {
		t.Fatal("not live")
	}
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")), policy.SetPod(static))
	web, hash, plain := add("c1", "web", "", "10.244.1.7"), add("c2", "static", "hash", "10.244.1.8"), add("c3", "web", "uid-1", "10.244.1.9")
	web.Unserved = []string{"hostPort 80/TCP does nothing: there is no portmap", "bandwidth does nothing"}
	hash.Unserved = web.Unserved
	g := gomega.NewWithT(t)
	if err := a.Handle(t.Context(), plain); err != nil { // it asks for nothing
		t.Fatal(err)
	}
	for _, c := range []struct {
		request handshake.Request
		uid     types.UID
	}{{web, "uid-1"}, {hash, "hash"}} {
		if err := a.Handle(t.Context(), c.request); err != nil {
			t.Fatal(err)
		}
		var e *corev1.Event
		g.Eventually(events, "1m").Should(gomega.Receive(&e))
		if e.Type != corev1.EventTypeWarning || e.Reason != report.ReasonNotServed || e.InvolvedObject.UID != c.uid || e.InvolvedObject.Kind != "Pod" ||
			e.Message != "hostPort 80/TCP does nothing: there is no portmap; bandwidth does nothing" {
			t.Errorf("%s: %+v", c.uid, e)
		}
	}
}
