package chaos

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// inTime is how soon a flow must be cut that is not allowed any more: a second, or,
// where other tests have the machine too, what shows that it is cut at all.
func inTime() time.Duration {
	if *full {
		return time.Second
	}
	return soon
}

// TestFlowsCut: of 10,000 flows of the node, half are denied by a change of a policy, of
// a pod's label or of a namespace's. All of those are cut within a second, those too
// that begin in that very moment, and no other.
func TestFlowsCut(t *testing.T) {
	n := newFedNode(t)
	// Those that have been said little on must not end meanwhile.
	check.NoError(t, n.SetSysctl("net/netfilter/nf_conntrack_udp_timeout", "3600"))
	hosts := map[string]*lab.Host{}
	labels := map[string]string{"allowed": "yes"}
	store, other := map[string]string{"team": "store"}, map[string]string{"team": "other"}
	pod := func(namespace, name string, labels map[string]string) random.Event {
		return random.Event{Object: podAt(namespace, name, "uid", labels, time.Unix(1700000000, 0), hosts[name].IPs...)}
	}
	for i, name := range []string{"server", "kept", "cut"} {
		hosts[name] = check.Value(n.AddPod(name, lab.PodOptions{IPs: random.PodAddrs(i, random.Node)}))(t)
	}
	const from = "podSelector: {}\ningress: [{from: [{namespaceSelector: {matchLabels: {team: %s}}, podSelector: {matchLabels: {allowed: \"yes\"}}}]}]\n"
	allowing := []random.Event{
		namespaceOf("kept", map[string]string{"team": "store", "kept": "yes"}), namespaceOf("cut", store),
		pod("shop", "server", nil), pod("kept", "kept", labels), pod("cut", "cut", labels),
		policyOf(t, "shop", "server", fmt.Sprintf(from, "store")),
	}
	changes := []random.Event{
		policyOf(t, "shop", "server", fmt.Sprintf(from, "store, kept: \"yes\"")),
		pod("cut", "cut", nil),
		namespaceOf("cut", other),
	}
	n.feed(allowing...)
	n.sync(t)

	const real, idle = 50, 4750 // of each kind, of each fate
	server := listenForSources(t, hosts["server"], 9000)
	var kept, cut []*talk
	var ended sync.WaitGroup
	t.Cleanup(ended.Wait)
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		check.Value(hosts["server"].Serve(protocol, 80))(t)
		for i := range real {
			to := netip.AddrPortFrom(hosts["server"].IPs[i%2], 80)
			kept = append(kept, startTalk(t, &ended, hosts["kept"], protocol, to))
			cut = append(cut, startTalk(t, &ended, hosts["cut"], protocol, to))
		}
	}
	var ports []int
	for port := range idle + real {
		ports = append(ports, 10_000+port)
	}
	for _, name := range []string{"kept", "cut"} {
		if lost := server.reached(t, hosts[name], ports); lost > 0 {
			t.Fatalf("%d of %d flows of %s have not begun", lost, len(ports), name)
		}
	}
	o := outcome{times: times(30)}
	var took []time.Duration
	for i := range o.times {
		n.flows.take()
		// Flows that begin all the time, so some just when the rules change.
		starting := startFlows(t, server, hosts["cut"], 20_000+i*1000)
		time.Sleep(50 * time.Millisecond)
		changed := time.Now()
		n.feed(changes[i%len(changes)])
		want := len(cut) + idle + real
		for n.flows.count() < want && time.Since(changed) < inTime() {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(max(0, time.Second-time.Since(changed)))
		begun := starting()
		revoked, judged := n.flows.take()
		if revoked < want {
			t.Errorf("%d flows revoked, of %d", revoked, want)
		}
		// On each flow something is said again: by those that must be cut nothing may come,
		// and all that must not be cut go on.
		at := time.Now()
		for _, port := range slices.Concat(ports, begun) {
			check.NoError(t, server.say(hosts["cut"], port))
		}
		o.broken += int64(server.reached(t, hosts["kept"], ports))
		time.Sleep(server.lasts())
		longest := judged.Sub(changed)
		for _, talk := range cut {
			longest = max(longest, talk.heardLast().Sub(changed))
			if talk.heardLast().Sub(changed) > inTime() {
				o.leaked++
			}
		}
		for _, talk := range kept {
			if talk.longestSilence() > inTime() {
				o.broken++
			}
		}
		o.denied += int64(len(cut) + len(ports) + len(begun))
		o.leaked += int64(server.since(hosts["cut"], at))
		o.allowed += int64(len(kept) + len(ports))
		took = append(took, longest)
		restored := time.Now()
		n.feed(allowing...)
		for _, talk := range slices.Concat(cut, kept) {
			// TCP says again what was lost in ever longer pauses.
			if !talk.hears(restored, soon) {
				t.Errorf("%s does not go on when it is allowed again", talk.conn.LocalAddr())
			}
		}
	}
	slices.Sort(took)
	o.repair = took[len(took)-1]
	if o.repair > inTime() {
		t.Errorf("a flow was cut only after %s", o.repair)
	}
	t.Logf("cut within %s, p50, to %s, max", took[len(took)/2].Round(time.Millisecond), o.repair.Round(time.Millisecond))
	record(t, "10,000 flows, half of them denied", o)
}

// talk is a connection to an echo server that something is said on all the time.
type talk struct {
	conn  net.Conn
	heard atomic.Int64 // when, in Unix nanoseconds
	quiet atomic.Int64 // the longest silence since it was asked for last
}

func startTalk(t *testing.T, ended *sync.WaitGroup, from *lab.Host, protocol policy.Protocol, to netip.AddrPort) *talk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	k := &talk{conn: check.Value(from.Dial(ctx, protocol, to))(t)}
	k.heard.Store(time.Now().UnixNano())
	t.Cleanup(func() { _ = k.conn.Close() })
	ended.Go(func() {
		for {
			if _, err := k.conn.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	ended.Go(func() {
		buffer := make([]byte, 1024)
		for {
			if _, err := k.conn.Read(buffer); err != nil {
				return
			}
			now := time.Now().UnixNano()
			k.quiet.Store(max(k.quiet.Load(), now-k.heard.Swap(now)))
		}
	})
	return k
}

func (k *talk) heardLast() time.Time { return time.Unix(0, k.heard.Load()) }

// longestSilence is the longest since it was called before, the one that goes on included.
func (k *talk) longestSilence() time.Duration {
	return max(time.Duration(k.quiet.Swap(0)), time.Since(k.heardLast()))
}

// hears waits until something is heard that comes after a moment.
func (k *talk) hears(after time.Time, patience time.Duration) bool {
	for !k.heardLast().After(after) {
		if time.Since(after) > patience {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	k.quiet.Store(0)
	return true
}

// sources is a UDP socket per address that only listens: who has said something, and when.
type sources struct {
	silence
	to   []netip.AddrPort
	mu   sync.Mutex
	last map[netip.AddrPort]time.Time
}

func listenForSources(t *testing.T, host *lab.Host, port uint16) *sources {
	t.Helper()
	s := &sources{last: map[netip.AddrPort]time.Time{}}
	for _, ip := range host.IPs {
		at := netip.AddrPortFrom(ip, port)
		s.to = append(s.to, at)
		var socket net.PacketConn
		check.NoError(t, host.Do(func() (err error) {
			socket, err = net.ListenPacket("udp", at.String())
			return err
		}))
		done := make(chan struct{})
		go func() {
			defer close(done)
			buffer := make([]byte, 64)
			for {
				_, from, err := socket.(*net.UDPConn).ReadFromUDPAddrPort(buffer)
				if err != nil {
					return
				}
				s.mu.Lock()
				s.last[netip.AddrPortFrom(from.Addr().Unmap(), from.Port())] = time.Now()
				s.mu.Unlock()
			}
		}()
		t.Cleanup(func() {
			_ = socket.Close()
			<-done
		})
	}
	return s
}

// say sends a datagram from a port of a host, without a socket there; the port says
// over which family.
func (s *sources) say(from *lab.Host, port int) error {
	to := s.to[port%len(s.to)]
	payload := binary.BigEndian.AppendUint32(nil, uint32(port))
	packet, err := lab.Craft(policy.Packet{Src: from.IP(to.Addr()), Dst: to.Addr(), Protocol: policy.UDP, DstPort: to.Port()}, uint16(port), payload)
	if err != nil {
		return err
	}
	return from.Send(packet)
}

// reached says something from ports of a host, again and again until all have been heard.
// It returns how many are not.
func (s *sources) reached(t *testing.T, from *lab.Host, ports []int) (lost int) {
	t.Helper()
	began, left := time.Now(), slices.Clone(ports)
	for len(left) > 0 && time.Since(began) < soon {
		at := time.Now()
		for _, port := range left {
			check.NoError(t, s.say(from, port))
		}
		// What the socket has no room for, on a busy machine, is lost and said again.
		for len(left) > 0 && time.Since(at) < time.Second {
			time.Sleep(time.Millisecond)
			left = slices.DeleteFunc(left, func(port int) bool { return s.has(from, port, began) })
		}
		if len(left) == 0 {
			s.heard(time.Since(at))
		}
	}
	return len(left)
}

// has says whether a port of a host has been heard since then.
func (s *sources) has(from *lab.Host, port int, then time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, heard := s.last[netip.AddrPortFrom(from.IP(s.to[port%len(s.to)].Addr()), uint16(port))]
	return heard && !at.Before(then)
}

// since counts the ports of a host that have been heard since then.
func (s *sources) since(from *lab.Host, then time.Time) (count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for source, at := range s.last {
		if slices.Contains(from.IPs, source.Addr()) && at.After(then) {
			count++
		}
	}
	return count
}

// startFlows begins a flow after the other from a host. The function that it returns
// stops that, and returns the ports of those that began.
func startFlows(t *testing.T, server *sources, from *lab.Host, first int) (stop func() []int) {
	t.Helper()
	ended, stopped := make(chan struct{}), make(chan []int)
	go func() {
		var ports []int
		for port := first; ; port++ {
			select {
			case <-ended:
				stopped <- ports
				return
			default:
			}
			if port < first+1000 && server.say(from, port) == nil {
				ports = append(ports, port)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	return func() []int {
		close(ended)
		return <-stopped
	}
}
