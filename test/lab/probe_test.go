package lab_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

func TestThousandProbes(t *testing.T) {
	l := open(t, lab.Options{})
	n := addNode(t, l, "node", "172.18.0.2", "fd00:18::2")
	var pods []*lab.Host
	start := time.Now()
	for i := range 20 {
		pods = append(pods, addPod(t, n, string(rune('a'+i)), lab.Routed,
			netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 2)}).String(), netip.AddrFrom16([16]byte{0xfd, 9, 15: byte(i + 2)}).String()))
	}
	t.Logf("20 pods made in %s", time.Since(start))
	load(t, n, `table inet test { chain forward { type filter hook forward priority 0; policy accept;
		ct state established,related accept
		meta l4proto { tcp, udp, sctp } th dport 1000-1999 drop
	}; }`)
	var probes []lab.Probe
	random := rand.New(rand.NewPCG(1, 2))
	for len(probes) < 1000 {
		from, to := pods[random.IntN(len(pods))], pods[random.IntN(len(pods))]
		if from == to {
			continue
		}
		p := policy.Packet{
			Dst:      to.IPs[random.IntN(2)],
			Protocol: []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP}[random.IntN(3)],
			DstPort:  uint16(random.IntN(2000)),
		}
		probes = append(probes, lab.Probe{From: from, Packet: p, Expect: p.DstPort < 1000})
	}
	for range 3 {
		start := time.Now()
		denied, sent := 0, 0
		for _, r := range probe(t, l, probes) {
			sent += r.Sent
			if !r.Arrived {
				denied++
			}
		}
		took := time.Since(start)
		t.Logf("%d probes, %d lost, in %s, %d packets", len(probes), denied, took, sent)
		if took > 5*time.Second {
			t.Errorf("1,000 probes took %s", took)
		}
	}
}

// A wrong expectation changes the time that a batch takes, not its results.
func TestExpectDecidesNothing(t *testing.T) {
	l := open(t, lab.Options{Patience: 500 * time.Millisecond})
	n, a, b, _ := pair(t, l, lab.Routed)
	load(t, n, `table inet t { chain c { type filter hook forward priority 0; tcp dport 1 drop; }; }`)
	results, err := l.Probe(context.Background(), []lab.Probe{
		{From: a, Packet: policy.Packet{Dst: b.IPs[0], Protocol: policy.TCP, DstPort: 1}, Expect: true},
		{From: a, Packet: policy.Packet{Dst: b.IPs[0], Protocol: policy.TCP, DstPort: 2}, Expect: false},
	})
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Arrived || !results[1].Arrived {
		t.Error(results)
	}
	if results[0].Sent < 3 || results[1].Sent != 1 {
		t.Errorf("sent %d and %d packets", results[0].Sent, results[1].Sent)
	}
}

func TestConcurrentBatches(t *testing.T) {
	l := open(t, lab.Options{})
	n, a, b, ext := pair(t, l, lab.Routed)
	load(t, n, `table inet t { chain c { type filter hook forward priority 0; th dport 1 drop; }; }`)
	var wait sync.WaitGroup
	for _, from := range []*lab.Host{a, b, ext, a, b, ext, a, b} {
		wait.Go(func() {
			for range 3 {
				results, err := l.Probe(context.Background(), []lab.Probe{
					{From: from, Packet: policy.Packet{Dst: a.IPs[1], Protocol: policy.UDP, DstPort: 1}, Expect: from == a},
					{From: from, Packet: policy.Packet{Dst: b.IPs[0], Protocol: policy.TCP, DstPort: 2}, Expect: true},
				})
				if err != nil {
					t.Error(err)
				}
				for _, r := range results {
					if !r.AsExpected() {
						t.Error(r)
					}
				}
			}
		})
	}
	wait.Wait()
}

func TestSpoofedSource(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			l := open(t, lab.Options{})
			_, a, b, ext := pair(t, l, attach)
			var probes []lab.Probe
			for _, to := range []*lab.Host{b, ext} {
				for _, src := range []string{"10.9.7.7", "192.0.2.77", "172.18.0.2"} {
					probes = append(probes, lab.Probe{From: a, Packet: policy.Packet{Src: ip(src), Dst: to.IPs[0], Protocol: policy.UDP, DstPort: 5}, Expect: src != "172.18.0.2"})
				}
				for _, src := range []string{"fd09:7::7", "2001:db8::77"} {
					probes = append(probes, lab.Probe{From: a, Packet: policy.Packet{Src: ip(src), Dst: to.IPs[1], Protocol: policy.TCP, DstPort: 5}, Expect: true})
				}
			}
			results, err := l.Probe(context.Background(), probes)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				// A router drops packets from its own address; a bridge need not.
				if !r.AsExpected() && !(attach == lab.Bridged && r.Packet.Src == ip("172.18.0.2")) {
					t.Error(r)
				}
			}
		})
	}
}

func TestMulticastAndBroadcast(t *testing.T) {
	l := open(t, lab.Options{})
	n := addNode(t, l, "node", "172.18.0.2")
	a := addPod(t, n, "a", lab.Bridged, "10.9.1.2", "fd09:1::2")
	b := addPod(t, n, "b", lab.Bridged, "10.9.1.3", "fd09:1::3")
	c := addPod(t, n, "c", lab.Bridged, "10.9.1.4", "fd09:1::4")
	far := addPod(t, n, "far", lab.Routed, "10.9.2.2", "fd09:2::2")
	for _, r := range probe(t, l, []lab.Probe{
		{From: a, Packet: policy.Packet{Dst: ip("224.0.0.1"), Protocol: policy.UDP, DstPort: 5353}, Expect: true},
		{From: a, Packet: policy.Packet{Dst: ip("255.255.255.255"), Protocol: policy.UDP, DstPort: 67}, Expect: true},
		{From: a, Packet: policy.Packet{Dst: ip("10.9.1.255"), Protocol: policy.UDP, DstPort: 137}, Expect: true},
		{From: a, Packet: policy.Packet{Dst: ip("ff02::1"), Protocol: policy.UDP, DstPort: 5353}, Expect: true},
		{From: a, Packet: policy.Packet{Dst: ip("ff02::1"), Protocol: policy.ICMPv6, ICMPType: 130, HopLimit: random.MulticastListenerHopLimit}, Expect: true},
		{From: a, Packet: policy.Packet{Dst: ip("ff02::16"), Protocol: policy.ICMPv6, ICMPType: 143, HopLimit: random.MulticastListenerHopLimit}, Expect: true},
		{From: a, Packet: policy.Packet{Dst: ip("ff02::1:ff00:3"), Protocol: policy.ICMPv6, ICMPType: 135, HopLimit: random.NeighbourDiscoveryHopLimit}, Expect: true},
	}) {
		reached := map[*lab.Host]bool{}
		for _, h := range r.At {
			reached[h] = true
		}
		if !reached[b] || reached[far] {
			t.Errorf("%s reached %v", r.Packet, r.At)
		}
		// The last one's group is b's own; a bridge may know who listens.
		if r.Packet.ICMPType != 135 && !reached[c] {
			t.Errorf("%s reached %v, not c", r.Packet, r.At)
		}
	}
	// The gateway's link-local address is the node's.
	probe(t, l, []lab.Probe{{
		From: far, To: &n.Host, Expect: true,
		Packet: policy.Packet{Dst: ip("fe80::1"), Protocol: policy.ICMPv6, ICMPType: 135, HopLimit: random.NeighbourDiscoveryHopLimit},
	}})
}

// A probe behind a Service arrives where destination NAT leads it.
func TestDestinationNAT(t *testing.T) {
	l := open(t, lab.Options{})
	n, a, b, _ := pair(t, l, lab.Routed)
	load(t, n, `table ip nat { chain prerouting { type nat hook prerouting priority -100;
		ip daddr 10.96.0.1 tcp dport 80 dnat to 10.9.1.3:8080
		ip daddr 10.96.0.2 tcp dport 80 dnat to 10.9.1.2:8080
	}; chain postrouting { type nat hook postrouting priority 100; ip saddr 10.9.1.2 ip daddr 10.9.1.2 masquerade; }; }`)
	probe(t, l, []lab.Probe{
		{From: a, To: b, Packet: policy.Packet{Dst: ip("10.96.0.1"), Protocol: policy.TCP, DstPort: 80}, Expect: true},
		{From: a, To: b, Packet: policy.Packet{Dst: ip("10.96.0.1"), Protocol: policy.TCP, DstPort: 81}, Expect: false},
		{From: a, To: a, Packet: policy.Packet{Dst: ip("10.96.0.2"), Protocol: policy.TCP, DstPort: 80}, Expect: true},
	})
}

// Each packet of a protocol without ports is judged as a new connection, even
// if the opposite direction is open and has just been used.
func TestPortlessProtocolsAreNewConnections(t *testing.T) {
	l := open(t, lab.Options{})
	n, a, b, _ := pair(t, l, lab.Routed)
	load(t, n, `table inet t { chain c { type filter hook forward priority 0;
		ct state established accept
		ip saddr 10.9.1.3 drop
		ip6 saddr fd09:1::3 drop
	}; }`)
	for range 2 {
		var probes []lab.Probe
		for i := range 2 {
			probes = append(probes,
				lab.Probe{From: a, Packet: policy.Packet{Dst: b.IPs[i], Protocol: 47}, Expect: true},
				lab.Probe{From: b, Packet: policy.Packet{Dst: a.IPs[i], Protocol: 47}, Expect: false},
				lab.Probe{From: a, Packet: policy.Packet{Dst: b.IPs[i], Protocol: 99}, Expect: true},
				lab.Probe{From: b, Packet: policy.Packet{Dst: a.IPs[i], Protocol: 99}, Expect: false},
			)
		}
		probe(t, l, probes)
	}
}

func TestProbeErrors(t *testing.T) {
	l := open(t, lab.Options{})
	_, a, b, _ := pair(t, l, lab.Routed)
	good := policy.Packet{Dst: b.IPs[0], Protocol: policy.TCP}
	if _, err := l.Probe(context.Background(), []lab.Probe{{Packet: good}}); err == nil {
		t.Error("no sender: no error")
	}
	mixed := policy.Packet{Src: a.IPs[1], Dst: b.IPs[0], Protocol: policy.TCP}
	if _, err := l.Probe(context.Background(), []lab.Probe{{From: a, Packet: mixed}}); err == nil {
		t.Error("families mixed: no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	lost := policy.Packet{Dst: ip("10.1.1.1"), Protocol: policy.TCP}
	if _, err := l.Probe(ctx, []lab.Probe{{From: a, Packet: lost}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Probe(context.Background(), []lab.Probe{{From: a, Packet: good}}); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// What passes is never taken for lost, however many go at once: a leak would
// go unseen.
func TestNothingThatArrivesIsLost(t *testing.T) {
	l := open(t, lab.Options{})
	n, a, b, ext := pair(t, l, lab.Routed)
	hosts := []*lab.Host{&n.Host, a, b, ext}
	var probes []lab.Probe
	for i := range 5000 {
		from, to := hosts[i%4], hosts[(i/4)%4]
		probes = append(probes, lab.Probe{From: from, Packet: policy.Packet{Dst: to.IPs[i/16%2], Protocol: policy.UDP, DstPort: 7}})
	}
	start := time.Now()
	results, err := l.Probe(context.Background(), probes)
	if err != nil {
		t.Fatal(err)
	}
	again := 0
	for _, r := range results {
		if !r.Arrived {
			t.Error(r)
		}
		again += r.Sent - 1
	}
	t.Logf("%d probes in %s, %d sent again", len(results), time.Since(start), again)
}

func TestRemovePodDuringProbes(t *testing.T) {
	l := open(t, lab.Options{})
	n, a, b, _ := pair(t, l, lab.Routed)
	var wait sync.WaitGroup
	wait.Go(func() {
		for range 5 {
			_, err := l.Probe(context.Background(), []lab.Probe{{From: a, To: b, Packet: policy.Packet{Dst: b.IPs[0], Protocol: policy.TCP}}})
			if err != nil && !errors.Is(err, lab.ErrClosed) {
				t.Error(err)
			}
		}
	})
	if err := n.RemovePod("shop/b"); err != nil {
		t.Error(err)
	}
	wait.Wait()
	if l.Host("shop/b") != nil || l.Owner(b.IPs[0]) != nil {
		t.Error("the pod is still there")
	}
}
