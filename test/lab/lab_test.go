package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// open makes an empty lab, or skips the test.
func open(t testing.TB, options lab.Options) *lab.Lab {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skip(err)
	}
	l, err := lab.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func addNode(t testing.TB, l *lab.Lab, name string, addrs ...string) *lab.Node {
	t.Helper()
	n, err := l.AddNode(name, parse(addrs)...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func addPod(t testing.TB, n *lab.Node, name string, attach lab.Attach, addrs ...string) *lab.Host {
	t.Helper()
	h, err := n.AddPod(name, lab.PodOptions{IPs: parse(addrs), Attach: attach})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func parse(addrs []string) (parsed []netip.Addr) {
	for _, a := range addrs {
		parsed = append(parsed, ip(a))
	}
	return parsed
}

// pair is a node with two pods and an external host, all dual-stack.
func pair(t testing.TB, l *lab.Lab, attach lab.Attach) (n *lab.Node, a, b, ext *lab.Host) {
	t.Helper()
	n = addNode(t, l, "node", "172.18.0.2", "fd00:18::2")
	a = addPod(t, n, "shop/a", attach, "10.9.1.2", "fd09:1::2")
	b = addPod(t, n, "shop/b", attach, "10.9.1.3", "fd09:1::3")
	ext, err := n.AddExternal("world", ip("192.0.2.9"), ip("2001:db8::9"))
	if err != nil {
		t.Fatal(err)
	}
	return n, a, b, ext
}

// load gives rules to nft inside the node.
func load(t testing.TB, n *lab.Node, rules string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatalf("nft is missing; it is in the package nftables: %v", err)
	}
	err := n.Do(func() error {
		// The child is forked from this thread, so it is in its namespace.
		command := exec.Command("nft", "-f", "-")
		command.Stdin = strings.NewReader(rules)
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// probe fails the test for each result that is not as expected.
func probe(t testing.TB, l *lab.Lab, probes []lab.Probe) []lab.Result {
	t.Helper()
	results, err := l.Probe(context.Background(), probes)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !r.AsExpected() {
			t.Errorf("%s -> %s %s", r.From, r.To, r)
		}
	}
	return results
}

// allProtocols are packets of every kind to an address.
func allProtocols(dst netip.Addr) []policy.Packet {
	packets := []policy.Packet{
		{Protocol: policy.TCP, DstPort: 80},
		{Protocol: policy.UDP, DstPort: 53},
		{Protocol: policy.SCTP, DstPort: 9999},
		{Protocol: 47},
		{Protocol: 33},
		{Protocol: 136},
		{Protocol: 253},
	}
	if dst.Is4() {
		packets = append(packets, policy.Packet{Protocol: policy.ICMP, ICMPType: 8}, policy.Packet{Protocol: policy.ICMP, ICMPType: 13})
	} else {
		packets = append(packets, policy.Packet{Protocol: policy.ICMPv6, ICMPType: 128})
		for _, kind := range random.NeighbourDiscovery {
			packets = append(packets, policy.Packet{Protocol: policy.ICMPv6, ICMPType: kind, HopLimit: random.NeighbourDiscoveryHopLimit})
		}
	}
	for i := range packets {
		packets[i].Dst = dst
	}
	return packets
}

func TestEveryProtocolArrivesInAnOpenLab(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			l := open(t, lab.Options{})
			n, a, b, ext := pair(t, l, attach)
			var probes []lab.Probe
			for _, from := range []*lab.Host{a, b, ext, &n.Host} {
				for _, to := range []*lab.Host{a, b, ext, &n.Host} {
					for _, dst := range to.IPs {
						for _, p := range allProtocols(dst) {
							probes = append(probes, lab.Probe{From: from, Packet: p, Expect: true})
						}
					}
				}
			}
			for _, r := range probe(t, l, probes) {
				if len(r.At) != 1 || r.At[0] != l.Owner(r.Packet.Dst) {
					t.Errorf("%s arrived at %v", r.Packet, r.At)
				}
			}
			t.Logf("%d probes arrived", len(probes))
		})
	}
}

func TestOnlyWhatIsDroppedIsLost(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			l := open(t, lab.Options{})
			n, a, b, ext := pair(t, l, attach)
			load(t, n, `table inet test {
				chain forward { type filter hook forward priority 0; policy accept;
					ct state established,related accept
					tcp dport 81 drop
					udp dport 82 drop
					sctp dport 83 drop
					meta l4proto 47 ip saddr 10.9.1.2 drop
					meta l4proto 47 ip6 saddr fd09:1::2 drop
					icmp type echo-request drop
					icmpv6 type echo-request drop
				}
				chain input { type filter hook input priority 0; policy accept; tcp dport 81 drop; }
				chain output { type filter hook output priority 0; policy accept; udp dport 82 drop; }
			}`)
			node := &n.Host
			var probes []lab.Probe
			for _, from := range []*lab.Host{a, b, ext, node} {
				for _, to := range []*lab.Host{a, b, ext, node} {
					if from == to {
						continue
					}
					forwarded := from != node && to != node
					for _, dst := range to.IPs {
						echo := policy.Packet{Protocol: policy.ICMP, ICMPType: 8}
						if dst.Is6() {
							echo = policy.Packet{Protocol: policy.ICMPv6, ICMPType: 128}
						}
						for _, c := range []struct {
							packet policy.Packet
							expect bool
						}{
							{policy.Packet{Protocol: policy.TCP, DstPort: 80}, true},
							{policy.Packet{Protocol: policy.TCP, DstPort: 81}, from == node},
							{policy.Packet{Protocol: policy.UDP, DstPort: 81}, true},
							{policy.Packet{Protocol: policy.UDP, DstPort: 82}, to == node},
							{policy.Packet{Protocol: policy.SCTP, DstPort: 82}, true},
							{policy.Packet{Protocol: policy.SCTP, DstPort: 83}, !forwarded},
							{policy.Packet{Protocol: 47}, !forwarded || from != a},
							{echo, !forwarded},
						} {
							c.packet.Dst = dst
							probes = append(probes, lab.Probe{From: from, Packet: c.packet, Expect: c.expect})
						}
					}
				}
			}
			// Again, now that conntrack knows of everything.
			for range 2 {
				probe(t, l, probes)
			}
		})
	}
}

func TestConnectedNodes(t *testing.T) {
	l := open(t, lab.Options{})
	n1 := addNode(t, l, "node1", "172.18.0.2", "fd00:18::2")
	n2 := addNode(t, l, "node2", "172.18.0.3", "fd00:18::3")
	early := addPod(t, n1, "early", lab.Routed, "10.9.1.2", "fd09:1::2")
	if err := l.Connect(n1, n2); err != nil {
		t.Fatal(err)
	}
	late := addPod(t, n2, "late", lab.Bridged, "10.9.2.2", "fd09:2::2")
	all := []*lab.Host{&n1.Host, &n2.Host, early, late}
	var probes []lab.Probe
	for _, from := range all {
		for _, to := range all {
			for _, dst := range to.IPs {
				probes = append(probes, lab.Probe{From: from, Packet: policy.Packet{Dst: dst, Protocol: policy.UDP, DstPort: 1}, Expect: true})
			}
		}
	}
	probe(t, l, probes)

	if err := n2.RemovePod("late"); err != nil {
		t.Fatal(err)
	}
	again := addPod(t, n1, "again", lab.Routed, "10.9.2.2")
	probe(t, l, []lab.Probe{
		{From: early, Packet: policy.Packet{Dst: again.IPs[0], Protocol: policy.TCP}, Expect: true},
		{From: &n2.Host, Packet: policy.Packet{Dst: again.IPs[0], Protocol: policy.TCP}, Expect: true},
	})
}

func TestLabsAreApart(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			l := open(t, lab.Options{})
			n, a, b, _ := pair(t, l, lab.Routed)
			rule := "tcp dport 1 drop"
			if i == 1 {
				rule = "tcp dport 2 drop"
			}
			load(t, n, "table inet t { chain c { type filter hook forward priority 0; "+rule+"; }; }")
			for range 5 {
				probe(t, l, []lab.Probe{
					{From: a, Packet: policy.Packet{Dst: b.IPs[0], Protocol: policy.TCP, DstPort: 1}, Expect: i == 1},
					{From: a, Packet: policy.Packet{Dst: b.IPs[1], Protocol: policy.TCP, DstPort: 2}, Expect: i == 0},
				})
			}
		})
	}
}
