package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

const readTable = `table inet podfence {
	set peers { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }
	set blocks { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 10.3.0.0-10.3.0.9 }; }
	set ports { type inet_proto . inet_service; flags interval; elements = { tcp . 80-90 }; }
	set open { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
	map pods { type ipv4_addr : verdict; elements = { 10.9.0.1 : jump pod }; }
	chain pod {
		ip saddr @peers accept comment "a peer"
		ip saddr @blocks accept comment "a block"
		meta l4proto . th dport @ports accept comment "a port"
		drop comment "nothing else"
	}
	chain forward {
		type filter hook forward priority filter - 10; policy accept;
		ct state established accept
		ip daddr vmap @pods
		ip daddr @open accept
	}
}
`

func tcp(src, dst string, port uint16) nft.TracePacket {
	return nft.TracePacket{Packet: policy.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: policy.TCP, DstPort: port, HopLimit: 64}, State: nft.New}
}

// lastOf is the last rule that a packet meets, and the verdict.
func lastOf(t *testing.T, r *kernel.Reader, p nft.TracePacket) string {
	t.Helper()
	v := visit(t, r, nft.Inet, nft.Forward, p)
	if len(v.Steps) == 0 {
		return fmt.Sprint("no rule: ", nft.Verdict{Action: v.Verdict})
	}
	last := v.Steps[len(v.Steps)-1]
	return fmt.Sprintf("%s %q: %s", last.Chain, last.Comment, last.Action())
}

// TestReaderSeesChanges: whoever changes the table, the reader sees it, and not what it was meant to be.
func TestReaderSeesChanges(t *testing.T) {
	for _, c := range []struct {
		name, change  string
		p             nft.TracePacket
		before, after string
	}{
		{"an element gone", "delete element inet podfence peers { 10.0.0.2 }", tcp("10.0.0.2", "10.9.0.1", 22), `pod "a peer": accept`, `pod "nothing else": drop`},
		{"an element more", "add element inet podfence peers { 10.0.0.3 }", tcp("10.0.0.3", "10.9.0.1", 22), `pod "nothing else": drop`, `pod "a peer": accept`},
		{"within a range", "delete element inet podfence blocks { 10.1.0.0/16 }", tcp("10.1.7.7", "10.9.0.1", 22), `pod "a block": accept`, `pod "nothing else": drop`},
		{"the first of a range", "add element inet podfence blocks { 10.2.0.0/24 }", tcp("10.2.0.0", "10.9.0.1", 22), `pod "nothing else": drop`, `pod "a block": accept`},
		{"the last of a range", "delete element inet podfence blocks { 10.3.0.0-10.3.0.9 }", tcp("10.3.0.9", "10.9.0.1", 22), `pod "a block": accept`, `pod "nothing else": drop`},
		{"after a range", "add element inet podfence blocks { 10.3.0.10 }", tcp("10.3.0.10", "10.9.0.1", 22), `pod "nothing else": drop`, `pod "a block": accept`},
		{"within a concatenation", "delete element inet podfence ports { tcp . 80-90 }", tcp("10.8.0.1", "10.9.0.1", 85), `pod "a port": accept`, `pod "nothing else": drop`},
		{"a map's element gone", "delete element inet podfence pods { 10.9.0.1 }", tcp("10.8.0.1", "10.9.0.1", 22), `pod "nothing else": drop`, `no rule: accept`},
		{"a map's verdict", "delete element inet podfence pods { 10.9.0.1 : jump pod }\nadd element inet podfence pods { 10.9.0.1 : drop }", tcp("10.0.0.1", "10.9.0.1", 22), `pod "a peer": accept`, `forward "": drop`},
		{"a catch-all element", "add element inet podfence pods { * : drop }", tcp("10.0.0.1", "10.9.0.2", 22), `no rule: accept`, `forward "": drop`},
		{"a rule before", `insert rule inet podfence pod ip saddr 10.0.0.1 tcp dport 22 drop comment "by hand"`, tcp("10.0.0.1", "10.9.0.1", 22), `pod "a peer": accept`, `pod "by hand": drop`},
		{"a rule that rejects", `insert rule inet podfence pod reject with icmpx port-unreachable`, tcp("10.0.0.1", "10.9.0.1", 22), `pod "a peer": accept`, `pod "": reject`},
		{"all rules gone", "flush chain inet podfence forward", tcp("10.8.0.1", "10.9.0.1", 22), `pod "nothing else": drop`, `no rule: accept`},
		{"a base chain more", "add chain inet podfence also { type filter hook forward priority filter - 20; policy drop; }", tcp("10.0.0.1", "10.9.0.1", 22), `pod "a peer": accept`, `also "": policy drop`},
		{"a policy", "chain inet podfence forward { policy drop; }", tcp("10.0.0.1", "10.9.0.2", 22), `no rule: accept`, `forward "": policy drop`},
		{"dormant", "table inet podfence { flags dormant; }", tcp("10.8.0.1", "10.9.0.1", 22), `pod "nothing else": drop`, `no rule: accept`},
		{"the table gone", "delete table inet podfence", tcp("10.8.0.1", "10.9.0.1", 22), `pod "nothing else": drop`, `no rule: accept`},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNamespace(t)
			n.load(readTable)
			r := n.reader()
			if got := lastOf(t, r, c.p); got != c.before {
				t.Fatalf("at first %s, want %s", got, c.before)
			}
			n.nft(c.change, "-f", "-")
			if got := lastOf(t, r, c.p); got != c.after {
				t.Errorf("then %s, want %s", got, c.after)
			}
		})
	}
}

// TestReaderRefusesToGuess: a rule that podfence never writes is an error that names it, for packets
// that come to it, and what is not said of a packet as well, if a rule asks for it.
func TestReaderRefusesToGuess(t *testing.T) {
	for rule, want := range map[string]string{
		"meta mark 7 drop":                      "key 3",
		"meta skuid 0 drop":                     "key 10",
		"tcp sport 1024 drop":                   "was not given",
		"tcp dport { 22, 23 } tcp sport 1 drop": "was not given",
		"ip dscp 8 drop":                        "was not given",
		"log drop":                              "log",
		"goto pod":                              "podfence never writes",
		"ct label 1 drop":                       "key",
		"ct zone 1 drop":                        "key 17",
		"ether saddr 1:2:3:4:5:6 drop":          "key", // a check of the link's type comes first
		"notrack":                               "notrack",
		"meta mark set 7":                       "immediate",
		"tcp option maxseg size 7 drop":         "exthdr",
		"quota over 1 mbytes drop":              "quota",
		"limit rate 1/second drop":              "limit",
	} {
		t.Run(rule, func(t *testing.T) {
			n := newNamespace(t)
			n.load(readTable)
			n.nft("insert rule inet podfence forward "+rule, "-f", "-")
			_, err := n.reader().Trace(t.Context(), []nft.Visit{{Family: nft.Inet, Hook: nft.Forward, Packet: tcp("10.0.0.1", "10.9.0.1", 22)}})
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "rule 1 of chain forward") {
				t.Errorf("the error is %v, want one about %q", err, want)
			}
		})
	}
}

// TestReaderDuringCommits: while sets are changed all the time, a verdict is that of before or after a
// change, never one that hides what holds all along.
func TestReaderDuringCommits(t *testing.T) {
	n := newNamespace(t)
	c := n.open()
	table := tableOf(t, "../testdata/web")
	if err := c.Apply(table.Replacement()); err != nil {
		t.Fatal(err)
	}
	ranges := nft.RangesOf(nft.IPv4Addr)
	whole, part := nft.PrefixElement(netip.MustParsePrefix("10.244.1.0/24")), nft.PrefixElement(netip.MustParsePrefix("10.244.1.128/25"))
	var name string
	for _, s := range table.Sets {
		if s.Type == ranges && strings.HasPrefix(s.Name, "pod-ranges") {
			name = s.Name
		}
	}
	if name == "" {
		t.Fatal("the golden has no ranges of pods")
	}
	r, err := c.OpenReader(kernel.Options{NetNS: n.fd})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// A packet to an address of the range that no pod has.
	p := tcp("192.0.2.1", "10.244.1.250", 80)
	want := agree(t, r, table, nft.Forward, p)
	if want.Verdict != nft.Drop {
		t.Fatalf("it is not dropped:\n%s", want)
	}
	var others []nft.Element
	for i := range 5_000 {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 1})
		others = append(others, nft.AddrsElement(a, a))
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var changes atomic.Int32
	wg.Go(func() {
		for ctx.Err() == nil {
			// The address is in a range all along, but that is another one after each change, and the
			// new one is in the set before it is in force.
			ops := func(gone, come nft.Element) []nft.Op {
				return []nft.Op{nft.DeleteElements{Set: name, Type: ranges, Elements: []nft.Element{gone}}, nft.AddElements{Set: name, Type: ranges, Elements: []nft.Element{come}}}
			}
			plan := nft.Plan{Ops: append(ops(whole, part), nft.AddElements{Set: name, Type: ranges, Elements: others})}
			if changes.Load()%2 == 1 {
				plan.Ops = append(ops(part, whole), nft.DeleteElements{Set: name, Type: ranges, Elements: others})
			}
			if err := c.Apply(plan); err != nil {
				t.Error(err)
				stop()
				return
			}
			changes.Add(1)
			time.Sleep(time.Millisecond)
		}
	})
	for visits := 0; visits < 200 || changes.Load() < 10 && ctx.Err() == nil; visits++ {
		if got := visit(t, r, nft.Inet, nft.Forward, p); got.Verdict != want.Verdict {
			t.Errorf("%v by\n%s", got.Verdict, steps(got))
			break
		}
	}
	stop()
	wg.Wait()
}

// TestReaderGivesUp: a verdict that cannot be told in time is an error, and a connection that was lost
// is made again.
func TestReaderGivesUp(t *testing.T) {
	n := newNamespace(t)
	n.load(readTable)
	r := n.reader()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := lastOf(t, r, tcp("10.0.0.1", "10.9.0.1", 22)), `pod "a peer": accept`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	stop, stopped := make(chan struct{}), make(chan struct{})
	c := n.open()
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("busy-%d", i%2)
			_ = c.Apply(nft.Plan{Ops: []nft.Op{nft.AddChain{Name: name}, nft.DeleteChain{Name: name}}})
		}
	}()
	var way []nft.Visit
	for range 5000 {
		way = append(way, nft.Visit{Family: nft.Inet, Hook: nft.Forward, Packet: tcp("10.0.0.1", "10.9.0.1", 22)})
	}
	_, err := r.Trace(ctx, way)
	close(stop)
	<-stopped
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "keeps changing") {
		t.Errorf("the error is %v", err)
	}
}
