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

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/recorder"
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
			has := versions{}
			list := listed{scope: policiesOf("shop"), at: "100", versions: map[string]string{}}
			for _, text := range strings.Fields(c.has) {
				name, version, _ := strings.Cut(text, "=")
				has.set(policiesOf("shop"), name, version)
			}
			for _, text := range strings.Fields(c.listed) {
				name, version, _ := strings.Cut(text, "=")
				list.versions[name] = version
			}
			lacks := has.lacks(list)
			if (lacks == "") != (c.lacks == "") || !strings.Contains(lacks, c.lacks) {
				t.Errorf("lacks %q, want %q", lacks, c.lacks)
			}
			if lacks := has.lacks(listed{scope: policiesOf("shop"), noKind: true}); lacks != "" {
				t.Errorf("of a kind that is not there it lacks %q", lacks)
			}
			for _, name := range []string{"allow", "deny"} {
				has.delete(policiesOf("shop"), name)
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
		l := newLists(func(_ context.Context, of scope) (listed, error) {
			mu.Lock()
			asked++
			n := asked
			mu.Unlock()
			<-release
			return listed{scope: of, at: fmt.Sprint(n)}, nil
		})
		for range listsAtOnce {
			go func() { _, _ = l.get(t.Context(), policiesOf("other")) }()
			synctest.Wait() // it has begun, and the next one gets a list of its own
		}
		g.Expect(asked).To(Equal(listsAtOnce))
		var got []string
		for range 100 {
			go func() {
				list, err := l.get(t.Context(), policiesOf("shop"))
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(list.at, err))
			}()
		}
		synctest.Wait()
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.get(hurried, policiesOf("shop"))
		g.Expect(err).To(MatchError(And(ContainSubstring("namespace shop"), ContainSubstring("not said in time"))))
		close(release)
		synctest.Wait()
		g.Expect(asked).To(Equal(listsAtOnce + 1))
		g.Expect(got).To(HaveLen(100))
		g.Expect(got).To(HaveEach(fmt.Sprint(listsAtOnce+1) + "<nil>"))
		g.Expect(l.next).To(BeEmpty())
	})
}

// TestCoveredAsksForPolicies: a namespace is covered when the policies have been fed that the API
// server has; one that was deleted while it was waited for, and never came, is not waited for any
// longer; and nothing is covered while the API server can't be asked.
func TestCoveredAsksForPolicies(t *testing.T) {
	g := NewWithT(t)
	var (
		mu   sync.Mutex
		away error
		has  = map[string]string{"deny": "7"}
	)
	set := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
	}
	s := NewSource()
	s.lists = newLists(func(_ context.Context, of scope) (listed, error) {
		mu.Lock()
		defer mu.Unlock()
		if of != policiesOf("shop") {
			return listed{scope: of, noKind: true}, nil
		}
		return listed{scope: of, at: "10", versions: has}, away
	})
	within := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return s.Covered(ctx, "shop")
	}
	g.Expect(within(200 * time.Millisecond)).To(MatchError(ContainSubstring("shop/deny is there")))
	covered := make(chan error, 1)
	go func() { covered <- within(time.Minute) }()
	g.Consistently(covered, "50ms").ShouldNot(Receive())
	s.fed.set(policiesOf("shop"), stored("other", "6")) // of no interest
	s.fed.delete(policiesOf("shop"), "other")
	s.fed.set(policiesOf("shop"), stored("deny", "7"))
	g.Eventually(covered).WithTimeout(time.Minute).Should(Receive(BeNil()))

	set(func() { has = map[string]string{"deny": "7", "moment": "9"} })
	go func() { covered <- within(time.Minute) }()
	g.Consistently(covered).ShouldNot(Receive())
	set(func() { has = map[string]string{"deny": "7"} })
	g.Eventually(covered).WithTimeout(time.Minute).Should(Receive(BeNil()))

	set(func() { away = errors.New("connection refused") })
	g.Expect(within(200 * time.Millisecond)).To(MatchError(ContainSubstring("connection refused")))
	set(func() { away = nil })
	g.Expect(within(time.Minute)).To(Succeed())
	g.Expect(s.fed.waiting).To(BeEmpty(), "nobody waits")
}

// TestCoveredAsksForClusterPolicies: an ADD waits for the ClusterNetworkPolicies too, and if there are
// any, for the Namespace by whose labels they choose. Where there are none, nobody asks for that.
func TestCoveredAsksForClusterPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		s := NewSource()
		var asked []scope
		deny := map[string]string{}
		s.lists = newLists(func(_ context.Context, of scope) (listed, error) {
			asked = append(asked, of)
			l := listed{scope: of, at: "10"}
			switch of {
			case clusterScope:
				l.versions = deny
			case namespaceScope("shop"):
				l.versions = map[string]string{"shop": "5"}
			}
			return l, nil
		})
		within := func(d time.Duration) error {
			// Between two lists, so that it is the watch that is waited for in the end.
			ctx, cancel := context.WithTimeout(t.Context(), d+listRetry/2)
			defer cancel()
			return s.Covered(ctx, "shop")
		}
		s.fed.set(namespaceScope("shop"), &metav1.ObjectMeta{Name: "shop", ResourceVersion: "4"})
		g.Expect(within(time.Minute)).To(Succeed())
		g.Expect(asked).To(Equal([]scope{policiesOf("shop"), clusterScope}))

		deny["deny"] = "7"
		g.Expect(within(time.Minute)).To(MatchError("the watch of the ClusterNetworkPolicies is behind the API server: ClusterNetworkPolicy deny is there"))
		s.fed.set(clusterScope, stored("deny", "7"))
		g.Expect(within(time.Minute)).To(MatchError("the watch of Namespace shop is behind the API server: Namespace shop has changed"))
		s.fed.set(namespaceScope("shop"), &metav1.ObjectMeta{Name: "shop", ResourceVersion: "5"})
		g.Expect(within(time.Minute)).To(Succeed())
		s.fed.delete(namespaceScope("shop"), "shop")
		g.Expect(within(time.Minute)).To(MatchError(ContainSubstring("Namespace shop is there")))
		g.Expect(s.fed.waiting).To(BeEmpty(), "nobody waits")
	})
}

// TestNotesAreOfTheStep: what was fed is noted in the step that feeds it, and only if it was fed. A
// note after that could be of an older policy than the one that is noted already, and nobody would
// ever correct it: all ADDs of the namespace would wait.
func TestNotesAreOfTheStep(t *testing.T) {
	s := NewSource()
	s.enforcer = enforcer.New(&recorder.Kernel{}, enforcer.Options{Node: "node"})
	noted := false
	note := func(uint64) {
		noted = true
		if s.mu.TryLock() {
			t.Error("another step could come between")
		}
	}
	failed := errors.New("the cache says no")
	if err := s.feed(func() ([]policy.Change, error) { return nil, failed }, note); !errors.Is(err, failed) || noted {
		t.Errorf("it failed with %v, and noted is %v", err, noted)
	}
	if err := s.feed(func() ([]policy.Change, error) { return nil, nil }, note); err != nil || !noted {
		t.Errorf("it failed with %v, and noted is %v", err, noted)
	}
}
