package attachments

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/recorder"
)

// TestWaitingChangesNothing: an add that waits for its pod asks by reading, and does not
// have the enforcer commit over and over.
func TestWaitingChangesNothing(t *testing.T) {
	g := NewWithT(t)
	var settled atomic.Int64
	a := unstarted(t, &recorder.Kernel{}, Options{State: t.TempDir()})
	a.Enforcer = enforcer.New(&recorder.Kernel{}, enforcer.Options{Node: "node", Report: func(o enforcer.Outcome) {
		if _, is := o.(enforcer.Settled); is {
			settled.Add(1)
		}
	}})
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- a.Enforcer.Start(ctx) }()
	defer func() { cancel(); <-ended }()
	a.Enforcer.Feed(policy.Synced())
	answered := make(chan error, 1)
	go func() { answered <- a.Handle(t.Context(), add("c1", "web", "uid-1", "10.244.1.7")) }()
	waits := func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.known) == 1 }
	g.Eventually(waits).WithTimeout(time.Minute).Should(BeTrue())
	g.Expect(a.Enforcer.Sync(t.Context())).To(Succeed())
	before := settled.Load()
	g.Consistently(settled.Load).Should(Equal(before))
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	g.Eventually(answered).WithTimeout(time.Minute).Should(Receive(BeNil()))
}

// TestAddSaysWhy has each reason that an add is not answered for in its error.
func TestAddSaysWhy(t *testing.T) {
	g := NewWithT(t)
	a, kernel := answering(t, t.TempDir(), nil)
	short := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return a.Handle(ctx, add("c1", "web", "uid-1", "10.244.1.7"))
	}
	g.Expect(short()).To(MatchError(ContainSubstring("pod shop/web (UID uid-1) is not known yet")))
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	g.Expect(a.Enforcer.Sync(t.Context())).To(Succeed())
	kernel.Fail(errors.New("the kernel refuses"))
	g.Expect(short()).To(MatchError("the rules of pod shop/web are not in the kernel: the last commit failed: the kernel refuses"))
}

// TestCoveredOnce: a pod is covered once, and asked for no more until another has its name; those
// that are gone are forgotten. What is not covered is not answered.
func TestCoveredOnce(t *testing.T) {
	g := NewWithT(t)
	a, _ := answering(t, t.TempDir(), nil)
	var asked []string
	var away error
	a.Covered = func(_ context.Context, namespace string) error {
		asked = append(asked, namespace)
		return away
	}
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	for range 2 { // the second is a sandbox that is made anew
		g.Expect(a.Handle(t.Context(), add("c1", "web", "uid-1", "10.244.1.7"))).To(Succeed())
	}
	g.Expect(asked).To(Equal([]string{"shop"}))
	away = errors.New("connection refused")
	g.Expect(a.Handle(t.Context(), add("c1", "web", "uid-1", "10.244.1.7"))).To(Succeed())
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-2")))
	g.Expect(a.Handle(t.Context(), add("c1", "web", "uid-2", "10.244.1.7"))).To(MatchError(And(ContainSubstring("pod shop/web"), ContainSubstring("connection refused"))))
	g.Expect(a.known).To(BeEmpty())
	away = nil
	g.Expect(a.Handle(t.Context(), add("c1", "web", "uid-2", "10.244.1.7"))).To(Succeed())
	g.Expect(a.covered).To(Equal(map[policy.Key]types.UID{{Namespace: "shop", Name: "web"}: "uid-2"}))
	a.Enforcer.Feed(policy.DeletePod(policy.Key{Namespace: "shop", Name: "web"}), policy.SetPod(known("db", "uid-4")))
	g.Expect(a.Handle(t.Context(), add("c2", "db", "uid-4", "10.244.1.8"))).To(Succeed())
	g.Expect(a.covered).To(Equal(map[policy.Key]types.UID{{Namespace: "shop", Name: "db"}: "uid-4"}))
}
