package kernel_test

import (
	"context"
	"fmt"
	"math/rand"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// reader reads back what a connection to the namespace has written, until the test ends.
func (n *namespace) reader() *kernel.Reader {
	n.t.Helper()
	r, err := n.open().OpenReader(kernel.Options{NetNS: n.fd})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = r.Close() })
	return r
}

// visit is what the kernel would do to a packet at one hook.
func visit(t testing.TB, r *kernel.Reader, family nft.Family, hook nft.HookPoint, p nft.TracePacket) nft.Visited {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	visited, err := r.Trace(ctx, []nft.Visit{{Family: family, Hook: hook, Packet: p}})
	if err != nil {
		t.Fatalf("%s %s: %v: %v", family, hook, p.Packet, err)
	}
	return visited[0]
}

// agree fails unless the kernel's rules do to a packet what the table says, by the same rules.
func agree(t testing.TB, r *kernel.Reader, table *nft.Table, hook nft.HookPoint, p nft.TracePacket) nft.Trace {
	t.Helper()
	want, have := table.Trace(hook, p), visit(t, r, table.Family, hook, p)
	same := have.Table && have.Verdict == want.Verdict && len(have.Steps) == len(want.Steps)
	for i := 0; same && i < len(want.Steps); i++ {
		step, rule := have.Steps[i], want.Steps[i].Rule
		chain := table.Chains[step.Chain]
		same = step.Chain == want.Steps[i].Chain && step.Comment == rule.Comment() && step.Handle != 0 &&
			nft.SameRules([]nft.Rule{chain.Rules[step.Position]}, []nft.Rule{rule})
	}
	if !same {
		t.Fatalf("%s %s, %+v:\nthe table says\n%s\nthe kernel's rules say %v by\n%s", table.Family, hook, p, want, have.Verdict, steps(have))
	}
	return want
}

func steps(v nft.Visited) string {
	var lines []string
	for _, s := range v.Steps {
		lines = append(lines, fmt.Sprintf("%s: %s %q", s.Chain, s.Action(), s.Comment))
	}
	return strings.Join(lines, "\n")
}

// seen is a packet as a hook sees it, in any state of connection tracking, in any frame.
func seen(r *rand.Rand, p policy.Packet, links []string) nft.TracePacket {
	any := func(oneIn int) bool { return r.Intn(oneIn) == 0 }
	s := nft.TracePacket{
		Packet: p, State: []nft.CtState{nft.New, nft.New, nft.New, nft.Established, nft.Related, nft.Invalid, nft.Untracked}[r.Intn(7)],
		Midstream: any(4), Elsewhere: any(4), Loopback: any(20),
	}
	if s.State == nft.New || s.State == nft.Established || s.State == nft.Related {
		s.DNAT, s.Flow = any(3), nft.Flow{OriginalSrc: p.Src, ReplySrc: p.Dst}
		if any(3) {
			s.Flow = nft.Flow{OriginalSrc: p.Dst, ReplySrc: p.Src}
		}
		if any(4) {
			s.Mark = 1<<29 | uint32(r.Intn(3))
		}
	}
	s.Frame = nft.Frame{
		Port: links[r.Intn(len(links))], Out: links[r.Intn(len(links))], Type: nft.TypeIPv4,
		Src: [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, byte(1 + r.Intn(3))}, Dst: [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x01},
	}
	if s.Loopback {
		s.Frame.Port = "lo"
	}
	if p.Src.Is6() {
		s.Frame.Type = nft.TypeIPv6
	}
	if any(3) {
		s.Frame.Group = ruleset.LinkGroup
	}
	if any(6) {
		s.Frame.Type = 0x8100 // a VLAN tag
	}
	if s.Frame.Here = any(2); any(6) {
		s.Frame.Dst = [6]byte{0x01, 0x00, 0x5e, 0, 0, 1}
	}
	return s
}

var hookPoints = []nft.HookPoint{nft.Forward, nft.Input, nft.Output, nft.Prerouting}

// TestReaderGoldens: what the kernel's rules do to packets is what the tracer says of the table, by the
// same rules; whether nft or podfence has written them.
func TestReaderGoldens(t *testing.T) {
	paths, err := filepath.Glob("../testdata/*.nft")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens in ../testdata: %v", err)
	}
	addrs := parseAddrs([]string{
		"10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.7", "10.244.1.8", "10.244.1.9", "10.244.2.3", "10.1.2.3", "127.0.0.1", "192.0.2.1", "224.0.0.1", "255.255.255.255",
		"fd00:10:244:1::1", "fd00:10:244:1::2", "fd00:10:244:1::7", "fd00:10:244:1::8", "fd00:10:244:2::3", "::1", "fe80::1", "ff02::1", "ff02::2", "2001:db8::1",
	})
	links := []string{"veth-a", "veth-b", "veth-c", "pf4kzn2xo1a7", "pfq3vd8s0mwe", "eth0", "podfence0"}
	for _, path := range paths {
		for _, by := range []string{"nft", "podfence"} {
			t.Run(filepath.Base(path)+"/"+by, func(t *testing.T) {
				n, table := newNamespace(t), tableOf(t, strings.TrimSuffix(path, ".nft"))
				if by == "nft" {
					golden, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					n.load(string(golden))
				} else if err := n.open().Apply(table.Replacement()); err != nil {
					t.Fatal(err)
				}
				r, k := rand.New(rand.NewSource(1)), n.reader()
				verdicts := map[nft.Action]int{}
				for range 600 {
					p := policy.Packet{Src: addrs[r.Intn(len(addrs))], Dst: addrs[r.Intn(len(addrs))], HopLimit: []uint8{64, 255, 1}[r.Intn(3)]}
					if p.Src.Is4() != p.Dst.Is4() {
						continue
					}
					p.Protocol = []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, policy.AH, 47, policy.ICMP}[r.Intn(6)]
					switch p.Protocol {
					case policy.TCP, policy.UDP, policy.SCTP:
						p.DstPort = []uint16{80, 443, 5432, 8080, 53, 8472, uint16(r.Intn(1 << 16))}[r.Intn(7)]
					case policy.ICMP:
						if p.ICMPType = []uint8{3, 5, 8, 11}[r.Intn(4)]; p.Src.Is6() {
							p.Protocol, p.ICMPType = policy.ICMPv6, []uint8{1, 128, 133, 135, 136, 137, 143}[r.Intn(7)]
						}
					}
					s := seen(r, p, links)
					if table.Family == nft.Bridge {
						s.Fragment = []nft.FragmentPart{nft.Whole, nft.First, nft.Headerless, nft.Later}[r.Intn(4)]
					}
					verdicts[agree(t, k, table, hookPoints[r.Intn(4)], s).Verdict]++
				}
				if verdicts[nft.Accept] == 0 || verdicts[nft.Drop]+verdicts[nft.Reject] == 0 {
					t.Errorf("all packets have one verdict: %v", verdicts)
				}
			})
		}
	}
}

// TestReaderARP: frames without IP go through the guard's rules as well.
func TestReaderARP(t *testing.T) {
	n, table := newNamespace(t), tableOf(t, "../testdata/guard")
	if err := n.open().Apply(table.Replacement()); err != nil {
		t.Fatal(err)
	}
	k := n.reader()
	pod, bridge := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.1.1")
	mac, gateway := [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x02}, [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x01}
	frame := nft.Frame{Port: "pf4kzn2xo1a7", Group: ruleset.LinkGroup, Src: mac, Dst: gateway, Type: nft.TypeARP, ARP: nft.ARP{SrcMAC: mac, Src: pod, Dst: bridge}}
	if got := agree(t, k, table, nft.Prerouting, nft.TracePacket{Frame: frame}); got.Verdict != nft.Accept {
		t.Errorf("a pod's own ARP is denied:\n%s", got)
	}
	frame.ARP.Src = bridge
	if got := agree(t, k, table, nft.Prerouting, nft.TracePacket{Frame: frame}); got.Verdict != nft.Drop {
		t.Errorf("ARP in the bridge's name passes:\n%s", got)
	}
	frame.Type = 0x8100
	if got := agree(t, k, table, nft.Prerouting, nft.TracePacket{Frame: frame}); got.Verdict != nft.Drop {
		t.Errorf("a frame with a VLAN tag passes:\n%s", got)
	}
}

// TestReaderRandom: for random clusters and packets, after a replacement and after updates.
func TestReaderRandom(t *testing.T) {
	options := []ruleset.Options{{}, {Reject: true, RevokedMark: 1 << 29, LogGroup: 28774}, {AllowToNode: true, MaxConnections: 100}, {Guard: true, Masquerade: true, SourceCheck: true, Bridge: "podfence0", TunnelPort: random.TunnelPort, LogGroup: 28774}}
	for seed := range int64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewSource(seed))
			n := newNamespace(t)
			c, k := n.open(), n.reader()
			for range 4 {
				s := random.Cluster(r, 12, 8)
				intent, _ := policy.Compile(s, random.Node)
				table := ruleset.Build(intent, options[r.Intn(len(options))])
				if err := c.Apply(table.Replacement()); err != nil {
					t.Fatal(err)
				}
				for range 150 {
					p := random.Packet(r, s)
					hook, known := random.Hook(s, p)
					if !known {
						hook = nft.Output
					}
					agree(t, k, &table.Table, hook, seen(r, p, []string{"podfence0", "eth0", "veth-a"}))
				}
			}
		})
	}
}

// TestReaderWhileReplaced: while another table is in force in place of podfence's, there is no answer.
func TestReaderWhileReplaced(t *testing.T) {
	n := newNamespace(t)
	r := n.reader()
	p := nft.TracePacket{Packet: policy.Packet{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Protocol: policy.TCP, DstPort: 80}, State: nft.New}
	if v := visit(t, r, nft.Inet, nft.Forward, p); v.Verdict != nft.Accept {
		t.Fatalf("without a table: %+v", v)
	}
	n.nft("", "add", "table", "inet", "podfence-standby")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if v, err := r.Trace(ctx, []nft.Visit{{Family: nft.Inet, Hook: nft.Forward, Packet: p}}); err == nil || !strings.Contains(err.Error(), "the table is being replaced") {
		t.Errorf("%+v, %v", v, err)
	}
	n.nft("", "delete", "table", "inet", "podfence-standby")
	visit(t, r, nft.Inet, nft.Forward, p)
}
