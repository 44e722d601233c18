package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
)

func stored(name, version string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: version}}
}

// TestLacks has a model that is ahead of a list, as far, and behind it.
func TestLacks(t *testing.T) {
	for _, c := range []struct {
		name, has, listed, lacks string // "NAME=VERSION ..."
	}{
		{"nothing", "", "", ""},
		{"the same", "deny=7", "deny=7", ""},
		{"a policy more", "", "deny=7", "shop/deny is there"},
		{"one of two", "deny=7", "allow=99 deny=7", "shop/allow is there"},
		{"an older version", "deny=9", "deny=10", "shop/deny has changed"},
		{"a newer version", "deny=101", "deny=99", ""},
		{"one that is gone", "allow=99 deny=7", "deny=7", "shop/allow is gone"},
		{"one that came later", "allow=101 deny=7", "deny=7", ""},
		{"made anew meanwhile", "deny=101", "", ""},
		{"versions that are no numbers", "deny=b", "deny=a", "shop/deny has changed"},
		{"the same, no numbers", "deny=a", "deny=a", ""},
		{"gone, no numbers", "deny=z", "", "shop/deny is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			has := policyVersions{}
			list := listedPolicies{namespace: "shop", at: "100", versions: map[string]string{}}
			for _, text := range strings.Fields(c.has) {
				name, version, _ := strings.Cut(text, "=")
				has.set(stored(name, version))
			}
			for _, text := range strings.Fields(c.listed) {
				name, version, _ := strings.Cut(text, "=")
				list.versions[name] = version
			}
			lacks := has.lacks(list)
			if (lacks == "") != (c.lacks == "") || !strings.Contains(lacks, c.lacks) {
				t.Errorf("lacks %q, want %q", lacks, c.lacks)
			}
			for _, name := range []string{"allow", "deny"} {
				has.delete(policy.Key{Namespace: "shop", Name: name})
			}
			if len(has) > 0 {
				t.Errorf("%v is left of nothing", has)
			}
		})
	}
}

// TestListsAreShared: those who ask while lists are under way share the next one, and
// nobody gets one that had begun before.
func TestListsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		var (
			mu    sync.Mutex
			asked int
		)
		release := make(chan struct{})
		l := newPolicyLists(nil)
		l.list = func(_ context.Context, namespace string) (listedPolicies, error) {
			mu.Lock()
			asked++
			n := asked
			mu.Unlock()
			<-release
			return listedPolicies{namespace: namespace, at: fmt.Sprint(n)}, nil
		}
		for range listsAtOnce {
			go func() { _, _ = l.get(t.Context(), "other") }()
			synctest.Wait() // it has begun, and the next one gets a list of its own
		}
		g.Expect(asked).To(Equal(listsAtOnce))
		var got []string
		for range 100 {
			go func() {
				list, err := l.get(t.Context(), "shop")
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(list.at, err))
			}()
		}
		synctest.Wait()
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.get(hurried, "shop")
		g.Expect(err).To(MatchError(And(ContainSubstring("namespace shop"), ContainSubstring("not said in time"))))
		close(release)
		synctest.Wait()
		g.Expect(asked).To(Equal(listsAtOnce + 1))
		g.Expect(got).To(HaveLen(100))
		g.Expect(got).To(HaveEach(fmt.Sprint(listsAtOnce+1) + "<nil>"))
		g.Expect(l.next).To(BeEmpty())
	})
}

// TestAddAsksForPolicies: an add is answered when the model has the policies that the API
// server has; one that was deleted while it was waited for, and never came, is not waited
// for any longer; and nothing is confirmed while the API server can't be asked.
func TestAddAsksForPolicies(t *testing.T) {
	g := NewWithT(t)
	a, _ := answering(t, t.TempDir(), nil)
	a.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	var (
		mu   sync.Mutex
		away error
		has  = map[string]string{"deny": "7"}
	)
	a.policies = newPolicyLists(nil)
	a.policies.list = func(_ context.Context, namespace string) (listedPolicies, error) {
		mu.Lock()
		defer mu.Unlock()
		return listedPolicies{namespace: namespace, at: "10", versions: has}, away
	}
	uid := types.UID("uid-1")
	within := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return a.handle(ctx, add("c1", "web", string(uid), "10.244.1.7"))
	}
	made := func(anew types.UID) {
		uid = anew
		a.enforcer.Feed(policy.SetPod(known("web", uid)))
	}
	g.Expect(within(200 * time.Millisecond)).To(MatchError(And(ContainSubstring("pod shop/web"), ContainSubstring("shop/deny is there"))))
	g.Expect(a.known).To(BeEmpty())
	feed := func(np *networkingv1.NetworkPolicy) {
		_ = a.enforcer.feed(func() ([]policy.Change, error) {
			a.enforcer.policies.set(np)
			return nil, nil
		})
	}
	answered := make(chan error, 1)
	go func() { answered <- within(time.Minute) }()
	feed(stored("deny", "7"))
	g.Eventually(answered).WithTimeout(time.Minute).Should(Receive(BeNil()))

	made("uid-2")
	mu.Lock()
	has = map[string]string{"deny": "7", "moment": "9"}
	mu.Unlock()
	go func() { answered <- within(time.Minute) }()
	g.Consistently(answered).ShouldNot(Receive())
	mu.Lock()
	has = map[string]string{"deny": "7"}
	mu.Unlock()
	g.Eventually(answered).WithTimeout(time.Minute).Should(Receive(BeNil()))

	mu.Lock()
	away = errors.New("connection refused")
	mu.Unlock()
	g.Expect(within(time.Minute)).To(Succeed(), "it is covered already: a sandbox that is made anew needs no API server")
	made("uid-3")
	g.Expect(within(200 * time.Millisecond)).To(MatchError(ContainSubstring("connection refused")))
	mu.Lock()
	away = nil
	mu.Unlock()
	g.Expect(within(time.Minute)).To(Succeed())
	g.Expect(a.coveredPods).To(Equal(map[policy.Key]types.UID{{Namespace: "shop", Name: "web"}: "uid-3"}))
	a.enforcer.Feed(
		policy.DeletePod(policy.Key{Namespace: "shop", Name: "web"}),
		policy.SetPod(known("db", "uid-4")),
	)
	g.Expect(a.handle(t.Context(), add("c2", "db", "uid-4", "10.244.1.8"))).To(Succeed())
	g.Expect(a.coveredPods).To(Equal(map[policy.Key]types.UID{{Namespace: "shop", Name: "db"}: "uid-4"}), "who is gone is forgotten")
}

// TestWaitingChangesNothing: an add that waits for its pod asks by reading, and does not
// have the enforcer commit over and over.
func TestWaitingChangesNothing(t *testing.T) {
	g := NewWithT(t)
	a, _ := answering(t, t.TempDir(), nil)
	answered := make(chan error, 1)
	go func() { answered <- a.handle(t.Context(), add("c1", "web", "uid-1", "10.244.1.7")) }()
	fed := func() uint64 {
		a.enforcer.mu.Lock()
		defer a.enforcer.mu.Unlock()
		return a.enforcer.fed
	}
	waits := func() bool {
		a.enforcer.mu.Lock()
		defer a.enforcer.mu.Unlock()
		return a.enforcer.changed != nil
	}
	g.Eventually(waits).WithTimeout(time.Minute).Should(BeTrue())
	before := fed()
	g.Consistently(fed).Should(Equal(before))
	a.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	g.Eventually(answered).WithTimeout(time.Minute).Should(Receive(BeNil()))
}

// TestAddSaysWhy has each reason that an add is not answered for in its error.
func TestAddSaysWhy(t *testing.T) {
	g := NewWithT(t)
	a, kernel := answering(t, t.TempDir(), nil)
	short := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return a.handle(ctx, add("c1", "web", "uid-1", "10.244.1.7"))
	}
	g.Expect(short()).To(MatchError(ContainSubstring("pod shop/web (UID uid-1) is not known yet")))
	a.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	g.Expect(a.enforcer.Sync(t.Context())).To(Succeed())
	kernel.mu.Lock()
	kernel.fail = errors.New("the kernel refuses")
	kernel.mu.Unlock()
	g.Expect(short()).To(MatchError("the rules of pod shop/web are not in the kernel: the last commit failed: the kernel refuses"))
}
