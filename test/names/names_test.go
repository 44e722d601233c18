package names

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

var kinds = []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}

// TestFirstConnections: a connection to an address that the pod was told a moment ago needs one SYN, though each answer has
// another address.
func TestFirstConnections(t *testing.T) {
	s := newScene(t)
	made := 0
	for i := range *connections {
		for f, kind := range kinds {
			// Over the other family as well: who asks from one address connects from another.
			name := fmt.Sprintf("n%d.api.example.com", i)
			to, err := s.ask(s.pod, resolverAddrs[(f+i)%2], name, kind, 2*time.Second, 1)
			s.must(err)
			conn, err := s.connect(s.pod, to)
			if err != nil {
				t.Fatalf("connection %d, %s at %s: %v\n%s\n%s", i, name, to, err, s.counted(), s.agent.Log())
			}
			made++
			conn.Close()
		}
	}
	if sent, seen := s.syns(s.pod), s.syns(s.world); sent != made || seen != made {
		t.Errorf("%d connections took %d SYNs, of which %d have arrived", made, sent, seen)
	}
}

// TestWhatCounts: an answer counts for its name, pod and time, and for no other.
func TestWhatCounts(t *testing.T) {
	s := newScene(t)
	closed := func(what string, h *lab.Host, to netip.Addr) {
		t.Helper()
		if conn, err := s.connect(h, to); err == nil {
			conn.Close()
			t.Errorf("%s: a connection to %s passes", what, to)
		}
	}
	before := s.syns(s.world)
	other, err := s.ask(s.pod, resolverAddrs[0], "www.example.org", dnsmessage.TypeA, 2*time.Second, 1)
	s.must(err)
	closed("another name", s.pod, other)
	short, err := s.ask(s.pod, resolverAddrs[0], "api.example.com", dnsmessage.TypeA, 2*time.Second, 1)
	s.must(err)
	closed("a wildcard's own domain", s.pod, short)
	to, err := s.ask(s.pod, resolverAddrs[0], "a.api.example.com", dnsmessage.TypeA, 2*time.Second, 1)
	s.must(err)
	closed("what another pod was told", s.other, to)
	if n := s.syns(s.world); n != before {
		t.Errorf("%d SYNs have arrived that were to be denied", n-before)
	}

	conn, err := s.connect(s.pod, to)
	s.must(err)
	defer conn.Close()
	// A TTL of one second, two at least, and one of grace; and the second for which the agent takes it for the same.
	time.Sleep(4 * time.Second)
	closed("its time is over", s.pod, to)
	s.must(lab.Echo(conn, []byte("still there"), 2*time.Second))
	// All flows are judged anew when a policy changes.
	s.touch()
	s.must(lab.Echo(conn, []byte("and after all flows were judged"), 2*time.Second))
}

// touch changes a policy that is about nothing of this, and waits until flows were judged.
func (s *scene) touch() {
	s.t.Helper()
	s.writeManifest("more.yaml", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: more}\nspec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}\n")
	s.eventually("the policy is in the kernel", func() error {
		if !strings.Contains(s.run(&s.node.Host, "nft", "list", "table", "inet", "podfence"), "shop/more") {
			return errors.New("it is not")
		}
		return nil
	})
	time.Sleep(1500 * time.Millisecond)
}

// TestExactNames: the agent resolves names itself that are no wildcards, so that a program goes on that was told an address
// before the agent came.
func TestExactNames(t *testing.T) {
	s := newScene(t)
	for _, to := range fixedAddrs {
		s.eventually("the name is resolved", func() error {
			conn, err := s.connect(s.pod, to)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
}

// TestForgedReplies: answers that nobody has asked a resolver for count for nothing.
func TestForgedReplies(t *testing.T) {
	s := newScene(t)
	// A resolver of the world's own: it may answer, if it could be asked; here the pod's policies let it, for another pod
	// to see.
	rogue := newResolver(t, s.world)
	s.writeManifest("open.yaml", fmt.Sprintf(`apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: open}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: ["%s/32"]}], protocols: [{udp: {destinationPort: {number: 53}}}]}]}
`, worldAddrs[0]))
	var told netip.Addr
	s.eventually("the rogue resolver answers", func() (err error) {
		told, err = s.ask(s.pod, worldAddrs[0], "evil.api.example.com", dnsmessage.TypeA, time.Second, 1)
		return err
	})
	if rogue.answers.Load() == 0 {
		t.Fatal("it was not asked")
	}
	before := s.syns(s.world)
	if conn, err := s.connect(s.pod, told); err == nil {
		conn.Close()
		t.Errorf("what a resolver of somebody's own says counts: %s", told)
	}
	// The resolver sends what was not asked: another id, another question, and unasked.
	for _, forge := range []func(*dnsmessage.Message){
		func(m *dnsmessage.Message) { m.ID++ },
		func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("other.api.example.com.") },
		func(m *dnsmessage.Message) { m.Questions = nil },
		func(m *dnsmessage.Message) { m.Response = false },
	} {
		s.forge(forge)
	}
	if n := s.syns(s.world); n != before {
		t.Errorf("%d SYNs have arrived that were to be denied", n-before)
	}
}

// forge has a query answered by a reply that was changed, and expects that the address in it stays closed.
func (s *scene) forge(change func(*dnsmessage.Message)) {
	s.t.Helper()
	addr := s.dns.next(dnsmessage.TypeA)
	s.dns.forged.Store(&forged{change, addr})
	defer s.dns.forged.Store(nil)
	_, _ = s.ask(s.pod, resolverAddrs[0], "forged.api.example.com", dnsmessage.TypeA, 300*time.Millisecond, 1)
	if conn, err := s.connect(s.pod, addr); err == nil {
		conn.Close()
		s.t.Errorf("a forged reply counts: %s", addr)
	}
}

// TestAgentAway: while the agent is killed, frozen and started again, each query is answered; what was told before counts
// until its time is over, and nothing that was not.
func TestAgentAway(t *testing.T) {
	s := newScene(t)
	s.dns.setTTL(600)
	kept, err := s.ask(s.pod, resolverAddrs[0], "kept.api.example.com", dnsmessage.TypeA, 2*time.Second, 1)
	s.must(err)
	open, err := s.connect(s.pod, kept)
	s.must(err)
	defer open.Close()

	var asked, late atomic.Uint32
	var worst atomic.Int64
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for f, kind := range kinds {
		asking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				began := time.Now()
				// As glibc: five seconds, twice.
				if _, err := s.ask(s.pod, resolverAddrs[f], fmt.Sprintf("q%d.api.example.com", i), kind, 5*time.Second, 2); err != nil {
					t.Errorf("query %d, %s: %v", i, kind, err)
				}
				took := time.Since(began)
				worst.Store(max(worst.Load(), int64(took)))
				if asked.Add(1); took > time.Second {
					late.Add(1)
				}
			}
		})
	}
	for i := range *restarts {
		switch i % 3 {
		case 0:
			s.must(s.agent.Kill())
			s.agent = nil
			time.Sleep(500 * time.Millisecond)
			s.expectKept(kept, open)
			s.start()
		case 1:
			s.must(s.agent.Freeze())
			time.Sleep(3 * time.Second)
			s.expectKept(kept, open)
			s.must(s.agent.Thaw())
		case 2:
			s.stop()
			s.expectKept(kept, open)
			s.start()
		}
		s.expectKept(kept, open)
		unknown := s.dns.next(dnsmessage.TypeA)
		if conn, err := s.connect(s.pod, unknown); err == nil {
			conn.Close()
			t.Errorf("round %d: a connection to %s passes, which nobody was told", i, unknown)
		}
	}
	close(stop)
	asking.Wait()
	t.Logf("%d queries, of which %d took more than a second, and the slowest %s", asked.Load(), late.Load(), time.Duration(worst.Load()))
	if asked.Load() < uint32(*restarts)*50 {
		t.Errorf("only %d queries were asked", asked.Load())
	}
	var first error
	s.eventually("names are learned again", func() error {
		to, err := s.ask(s.pod, resolverAddrs[0], "again.api.example.com", dnsmessage.TypeA, 2*time.Second, 1)
		if err == nil {
			var conn net.Conn
			if conn, err = s.connect(s.pod, to); err == nil {
				conn.Close()
			}
		}
		first = errors.Join(first, err)
		return err
	})
}

// expectKept expects that what the pod was told before counts, and that the connection goes on.
func (s *scene) expectKept(kept netip.Addr, open net.Conn) {
	s.t.Helper()
	conn, err := s.connect(s.pod, kept)
	if err != nil {
		s.t.Errorf("what was told before does not count: %v", err)
		return
	}
	conn.Close()
	if err := lab.Echo(open, []byte("open"), 2*time.Second); err != nil {
		s.t.Errorf("the connection does not go on: %v", err)
	}
}

// TestBothQuestionsAtOnce: A and AAAA from one socket, as glibc asks, and both addresses count.
func TestBothQuestionsAtOnce(t *testing.T) {
	s := newScene(t)
	conn, err := s.pod.Dial(t.Context(), policy.UDP, netip.AddrPortFrom(resolverAddrs[0], 53))
	s.must(err)
	defer conn.Close()
	var told []netip.Addr
	for i := range 20 {
		name := fmt.Sprintf("both%d.api.example.com.", i)
		for k, kind := range kinds {
			query := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(2*i + k)}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
			packed, err := query.Pack()
			s.must(err)
			_, err = conn.Write(packed)
			s.must(err)
		}
		for range kinds {
			buffer := make([]byte, 4096)
			s.must(conn.SetReadDeadline(time.Now().Add(2 * time.Second)))
			n, err := conn.Read(buffer)
			s.must(err)
			var reply dnsmessage.Message
			s.must(reply.Unpack(buffer[:n]))
			switch body := reply.Answers[0].Body.(type) {
			case *dnsmessage.AResource:
				told = append(told, netip.AddrFrom4(body.A))
			case *dnsmessage.AAAAResource:
				told = append(told, netip.AddrFrom16(body.AAAA))
			}
		}
		for _, to := range told[len(told)-2:] {
			opened, err := s.connect(s.pod, to)
			s.must(err)
			opened.Close()
		}
	}
	if sent := s.syns(s.pod); sent != len(told) {
		t.Errorf("%d connections took %d SYNs", len(told), sent)
	}
}
