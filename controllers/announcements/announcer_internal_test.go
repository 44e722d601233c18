package announcements

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// server is an API server that refuses lies, or does not, and may fail or be slow.
type server struct {
	client.WithWatch

	mu sync.Mutex
	// believes says that it takes what is said of any node's pods.
	believes bool
	// fails is what it answers; delay is after how long it answers.
	fails  error
	delay  time.Duration
	writes int // that were not dry runs
}

func newServer() *server {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	s := &server{}
	s.WithWatch = interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).Build(), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
			dry := slices.Contains(options, client.CreateOption(client.DryRunAll))
			if err := s.answer(ctx, o.GetName(), dry); err != nil || dry {
				return err
			}
			return c.Create(ctx, o, options...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.UpdateOption) error {
			if err := s.answer(ctx, o.GetName(), false); err != nil {
				return err
			}
			return c.Update(ctx, o, options...)
		},
	})
	return s
}

func (s *server) answer(ctx context.Context, name string, dry bool) error {
	s.mu.Lock()
	fails, delay, refused := s.fails, s.delay, !s.believes && name != "node-1"
	s.mu.Unlock()
	if !dry {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch {
	case refused:
		return apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("podaddresses").GroupResource(), name, errors.New("not its node"))
	case fails == nil && !dry:
		s.mu.Lock()
		s.writes++
		s.mu.Unlock()
	}
	return fails
}

func (s *server) set(f func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// holds are the names of the pods that it has of node-1.
func (s *server) holds(t *testing.T) (names []string) {
	t.Helper()
	o := &v1alpha1.PodAddresses{}
	if err := s.WithWatch.Get(context.Background(), client.ObjectKey{Name: "node-1"}, o); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	for _, pod := range o.Pods {
		names = append(names, pod.Name)
	}
	return names
}

// node is an agent's part of a node.
type node struct {
	*Announcer
	server *server

	mu       sync.Mutex
	shown    map[policy.Key]*policy.Pod
	made     []policy.Attachment
	outcomes []error
}

func (n *node) Announced(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.outcomes = append(n.outcomes, err)
}

func (n *node) show(pod *policy.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shown[pod.Key] = pod
}

// start starts an agent's part on a node, which ends with the test.
func start(t *testing.T, s *server, require bool, made ...policy.Attachment) *node {
	t.Helper()
	n := &node{server: s, shown: map[policy.Key]*policy.Pod{}, made: made}
	n.Announcer = New(Options{
		Node: "node-1", Client: s, Require: require, Report: n, Log: logr.Discard(),
		Pod: func(key policy.Key) *policy.Pod {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.shown[key]
		},
		NodeUID:     func() types.UID { return "uid-of-node-1" },
		Attachments: func() []policy.Attachment { return n.made },
		Synced:      func(context.Context) error { return nil },
		Trust:       NewTrust("node-1", s, func(context.Context, bool) error { return nil }, logr.Discard()),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = n.Trust.Start(ctx) })
	running.Go(func() { _ = n.Start(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return n
}

func attachment(pod, ip string) policy.Attachment {
	return policy.Attachment{
		ContainerID: "container of " + ip, IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: pod},
		UID: types.UID("uid-" + pod), IPs: []netip.Addr{netip.MustParseAddr(ip)},
	}
}

func pod(name string, ips ...string) *policy.Pod {
	p := &policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, UID: types.UID("uid-" + name), Node: "node-1"}
	for _, ip := range ips {
		p.IPs = append(p.IPs, netip.MustParseAddr(ip))
	}
	return p
}

// inBubble runs a test where time passes only while all wait.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t) })
}

// TestAnnounce: when the wait is over, the API server has the address; DEL takes it back, and what
// the status shows goes with the next write.
func TestAnnounce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := start(t, newServer(), true)
		if err := n.Announce(attachment("web", "10.244.1.2"))(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := n.server.holds(t); !slices.Equal(got, []string{"web"}) {
			t.Errorf("it has %v", got)
		}
		o := &v1alpha1.PodAddresses{}
		if err := n.server.Get(t.Context(), client.ObjectKey{Name: "node-1"}, o); err != nil {
			t.Fatal(err)
		}
		if said := o.Pods[0]; said.Namespace != "shop" || said.UID != "uid-web" || !slices.Equal(said.IPs, []string{"10.244.1.2"}) || said.Supersedes != nil {
			t.Errorf("%+v", said)
		}
		if len(o.OwnerReferences) != 1 || o.OwnerReferences[0].UID != "uid-of-node-1" || o.OwnerReferences[0].Kind != "Node" {
			t.Errorf("it does not go with its Node: %v", o.OwnerReferences)
		}
		n.show(pod("web", "10.244.1.2"))
		if err := n.Announce(attachment("db", "10.244.1.3"))(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := n.server.holds(t); !slices.Equal(got, []string{"db"}) || n.server.writes != 2 {
			t.Errorf("it has %v after %d writes", got, n.server.writes)
		}
		n.Withdraw(attachment("web", "10.244.1.2").Key())
		synctest.Wait()
		if n.server.writes != 2 {
			t.Errorf("the DEL of a pod whose status shows the address is written: %d writes", n.server.writes)
		}
		n.Withdraw(attachment("db", "10.244.1.3").Key())
		synctest.Wait()
		if got := n.server.holds(t); got != nil {
			t.Errorf("after DEL it has %v", got)
		}
		if !slices.Equal(n.outcomes, []error{nil, nil}) {
			t.Errorf("reported: %v", n.outcomes)
		}
	})
}

// TestAnnouncePrunes: what the status shows goes without another ADD as well, some time later.
func TestAnnouncePrunes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := start(t, newServer(), true)
		if err := n.Announce(attachment("web", "10.244.1.2"))(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.show(pod("web", "10.244.1.2"))
		time.Sleep(pruneEvery + time.Second)
		synctest.Wait()
		if got := n.server.holds(t); got != nil {
			t.Errorf("it still has %v", got)
		}
	})
}

// TestAnnounceSandbox: a pod's new sandbox takes the place of the old one, whose late DEL takes nothing
// back; and it says which addresses the status shows of the old one.
func TestAnnounceSandbox(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := start(t, newServer(), true)
		n.show(pod("web", "10.244.1.2"))
		if err := n.Announce(attachment("web", "10.244.1.9"))(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.Withdraw(attachment("web", "10.244.1.2").Key())
		synctest.Wait()
		o := &v1alpha1.PodAddresses{}
		if err := n.server.Get(t.Context(), client.ObjectKey{Name: "node-1"}, o); err != nil {
			t.Fatal(err)
		}
		if len(o.Pods) != 1 || !slices.Equal(o.Pods[0].IPs, []string{"10.244.1.9"}) || !slices.Equal(o.Pods[0].Supersedes, []string{"10.244.1.2"}) {
			t.Errorf("%+v", o.Pods)
		}
		second := attachment("web", "10.99.0.1")
		second.IfName = "net1"
		if err := n.Announce(second)(t.Context()); err != nil || !slices.Equal(n.server.holds(t), []string{"web"}) {
			t.Errorf("a second interface: %v, %v", err, n.server.holds(t))
		}
	})
}

// TestAnnounceBurst: while one write is under way, all that comes goes with the next.
func TestAnnounceBurst(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newServer()
		s.delay = 10 * time.Millisecond
		n := start(t, s, true)
		synctest.Wait()
		var all sync.WaitGroup
		began := time.Now()
		for i := range 100 {
			name := string(rune('a'+i/26)) + string(rune('a'+i%26))
			at := attachment(name, netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}).String())
			all.Go(func() {
				if err := n.Announce(at)(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); s.writes > 2 || took > 20*time.Millisecond || len(s.holds(t)) != 100 {
			t.Errorf("%d writes in %s, and it has %d pods", s.writes, took, len(s.holds(t)))
		}
	})
}

// TestAnnounceFails: an API server that fails or does not answer keeps an ADD waiting no longer than
// said, or fails it, as --peers-first says; afterwards all is written.
func TestAnnounceFails(t *testing.T) {
	for name, away := range map[string]func(*server){
		"it fails":    func(s *server) { s.fails = errors.New("etcd has no leader") },
		"it is stuck": func(s *server) { s.delay = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newServer()
				prefers, requires := start(t, s, false), start(t, s, true)
				synctest.Wait()
				s.set(away)
				began := time.Now()
				if err := prefers.Announce(attachment("web", "10.244.1.2"))(t.Context()); err != nil || time.Since(began) != addTimeout {
					t.Errorf("prefer: %v after %s", err, time.Since(began))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				err := requires.Announce(attachment("web", "10.244.1.2"))(ctx)
				if err == nil || ctx.Err() == nil || !strings.Contains(err.Error(), "--peers-first") {
					t.Errorf("require: %v after %s", err, time.Since(began))
				}
				if len(prefers.outcomes) != 1 || prefers.outcomes[0] == nil || len(requires.outcomes) != 1 || requires.outcomes[0] == nil {
					t.Errorf("reported: %v and %v", prefers.outcomes, requires.outcomes)
				}
				s.set(func(s *server) { s.fails, s.delay = nil, 0 })
				time.Sleep(time.Minute)
				if got := s.holds(t); !slices.Equal(got, []string{"web"}) {
					t.Errorf("when the API server is back it gets %v", got)
				}
			})
		})
	}
}

// TestAnnounceInTime: an ADD that has not much time left does not spend all of it on this.
func TestAnnounceInTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newServer()
		n := start(t, s, false)
		synctest.Wait()
		s.set(func(s *server) { s.delay = time.Hour })
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if err := n.Announce(attachment("web", "10.244.1.2"))(ctx); err != nil || ctx.Err() != nil {
			t.Errorf("%v, and the ADD: %v", err, ctx.Err())
		}
	})
}

// TestAnnounceRefused: what is refused for good has Trust look before the time, so that ADDs do not
// wait for what does not come.
func TestAnnounceRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newServer()
		n := start(t, s, false)
		synctest.Wait()
		time.Sleep(10 * time.Minute)
		s.set(func(s *server) {
			s.fails = apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("podaddresses").GroupResource(), "")
		})
		began := time.Now()
		if err := n.Announce(attachment("web", "10.244.1.2"))(t.Context()); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if err := n.Trust.Await(t.Context()); !errors.Is(err, ErrOff) {
			t.Errorf("trusted: %v", err)
		}
	})
}

// TestAnnounceSeen: what somebody else has written into the node's object, or deleted, is put right
// without another ADD.
func TestAnnounceSeen(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newServer()
		n := start(t, s, true)
		see := func() {
			o := &v1alpha1.PodAddresses{}
			if s.Get(t.Context(), client.ObjectKey{Name: "node-1"}, o) != nil {
				o = nil
			}
			n.Seen(o)
		}
		if err := n.Announce(attachment("web", "10.244.1.2"))(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.Seen(nil) // a watch that is behind
		see()
		time.Sleep(10 * time.Second)
		if s.writes != 1 {
			t.Errorf("its own write made %d writes", s.writes)
		}
		o := &v1alpha1.PodAddresses{}
		if err := s.Get(t.Context(), client.ObjectKey{Name: "node-1"}, o); err != nil {
			t.Fatal(err)
		}
		o.Pods = append(o.Pods, v1alpha1.PodAddress{Namespace: "shop", Name: "lie", UID: "uid", IPs: []string{"10.244.1.9"}})
		if err := s.Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		see()
		time.Sleep(10 * time.Second)
		if got := s.holds(t); !slices.Equal(got, []string{"web"}) {
			t.Errorf("a lie was put right to %v", got)
		}
		see()
		if err := s.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		see()
		time.Sleep(10 * time.Second)
		if got := s.holds(t); !slices.Equal(got, []string{"web"}) {
			t.Errorf("a deleted object was put right to %v", got)
		}
	})
}

// TestAnnounceOff: where the cluster does not refuse lies, nothing is written, and no ADD waits but
// one that must not be answered.
func TestAnnounceOff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newServer()
		s.believes = true
		prefers, requires := start(t, s, false), start(t, s, true)
		synctest.Wait()
		began := time.Now()
		if err := prefers.Announce(attachment("web", "10.244.1.2"))(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("prefer: %v after %s", err, time.Since(began))
		}
		if err := requires.Announce(attachment("web", "10.244.1.2"))(t.Context()); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "config/admission") {
			t.Errorf("require: %v", err)
		}
		if s.writes != 0 {
			t.Errorf("%d writes", s.writes)
		}
		s.set(func(s *server) { s.believes = false })
		time.Sleep(2 * lookWhileOff)
		synctest.Wait()
		if got := s.holds(t); !slices.Equal(got, []string{"web"}) {
			t.Errorf("when it refuses them, it gets %v", got)
		}
	})
}

// TestAnnounceRestored: an agent that starts keeps what an earlier one has announced as far as it
// still holds, and takes the rest back; also what others have made of the object.
func TestAnnounceRestored(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newServer()
		before := &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
		for _, at := range []policy.Attachment{attachment("web", "10.244.1.2"), attachment("gone", "10.244.1.3"), attachment("moved", "10.244.1.4")} {
			before.Pods = append(before.Pods, v1alpha1.PodAddress{
				Namespace: at.Pod.Namespace, Name: at.Pod.Name, UID: at.UID, IPs: texts(at.IPs), Supersedes: []string{"10.244.1.99"}, Since: v1alpha1.Now(),
			})
		}
		if err := s.Create(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		n := start(t, s, true, attachment("web", "10.244.1.2"), attachment("moved", "10.244.1.5"))
		synctest.Wait()
		if got := s.holds(t); !slices.Equal(got, []string{"web"}) {
			t.Errorf("it has %v", got)
		}
		for name, meddle := range map[string]func(*v1alpha1.PodAddresses) error{
			"deleted": func(o *v1alpha1.PodAddresses) error { return s.Delete(t.Context(), o) },
			"changed": func(o *v1alpha1.PodAddresses) error { o.Pods = nil; return s.Update(t.Context(), o) },
		} {
			o := &v1alpha1.PodAddresses{}
			if err := errors.Join(s.Get(t.Context(), client.ObjectKey{Name: "node-1"}, o), meddle(o)); err != nil {
				t.Fatal(err)
			}
			if err := n.Announce(attachment(name, "10.244.1.7"))(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := s.holds(t); !slices.Contains(got, "web") || !slices.Contains(got, name) {
				t.Errorf("%s: it has %v", name, got)
			}
		}
	})
}
