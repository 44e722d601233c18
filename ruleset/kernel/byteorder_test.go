package kernel_test

import (
	"encoding/binary"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

var transactions = flag.String("transactions", "", "write to this folder what every transaction of TestTransactions says")

// expectNeutral compares what messages say with a file of testdata that is the same for all architectures.
func expectNeutral(t *testing.T, name, have string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *kernel.Update {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wanted, had := strings.Split(string(want), "\n"), strings.Split(have, "\n")
	for i := range had {
		if i >= len(wanted) || had[i] != wanted[i] {
			t.Fatalf("%s, line %d: %q, want %q", path, i+1, had[i], wanted[min(i, len(wanted)-1)])
		}
	}
	if len(had) != len(wanted) {
		t.Fatalf("%s: %d lines, want %d", path, len(had), len(wanted))
	}
}

// TestByteOrder: the octets of a transaction with everything in it that podfence knows are what the kernel
// of an architecture takes them for, in whichever order that has the octets of a number. The file has been
// read on a little-endian machine; make test-arch reads it on a big-endian one.
func TestByteOrder(t *testing.T) {
	for _, family := range []nft.Family{nft.Inet, nft.Bridge} {
		datagram, err := kernel.TransactionOf(everything(family), family == nft.Inet)
		if err != nil {
			t.Fatal(err)
		}
		have, err := kernel.Neutral(datagram)
		if err != nil {
			t.Fatal(err)
		}
		expectNeutral(t, "everything-"+family.String()+".txt", have)
	}
}

// everything is a plan with every match; for family inet with every verdict, field and kind of set besides.
func everything(family nft.Family) nft.Plan {
	accept := nft.Verdict{Action: nft.Accept}
	rules := []nft.Rule{
		{Counter: true, Log: nft.Log{Group: 28774, Prefix: "denied"}, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("why")},
		{Verdict: nft.Verdict{Action: nft.Reject}}, {Verdict: nft.Verdict{Action: nft.Return}}, {Verdict: nft.Verdict{Action: nft.Masquerade}},
		{Verdict: nft.Verdict{Action: nft.Jump, Chain: "plain"}},
		{Log: nft.Log{Group: 28774, Prefix: "query", Whole: true}, Verdict: nft.Verdict{Action: nft.Queue, Number: 28774}},
		// Marks, groups and states that other octets hold in another order.
		{Matches: []nft.Match{nft.InGroup(28774), nft.Mark(0x01020304), nft.Established | nft.Related}, Verdict: accept},
	}
	for _, match := range nft.Examples() {
		rules = append(rules, nft.Rule{Matches: []nft.Match{match}, Verdict: accept})
	}
	hook := nft.AddChain{Name: "base", Hook: &nft.Hook{Point: nft.Forward, Base: nft.Filter, Priority: -10}}
	if family == nft.Bridge {
		return nft.Plan{Family: family, Ops: []nft.Op{hook, nft.SetRules{Chain: "base", Rules: rules[6:]}}}
	}
	ops := []nft.Op{nft.AddChain{Name: "plain"}}
	addr := nft.AddrElement(netip.MustParseAddr("10.0.1.2"))
	for f := range nft.Fields() {
		rules = append(rules, nft.Rule{
			Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{f, nft.L4Protocol, nft.DstPort}, Set: "set"}},
			Verdict: nft.Verdict{Action: nft.Dispatch, Map: "map", Field: f},
		})
		of := nft.Of(f.Datatype())
		ops = append(ops,
			nft.AddSet{Name: f.String(), Type: of, Comment: "what for"},
			nft.AddElements{Set: f.String(), Type: of, Elements: []nft.Element{{Addr: addr.Addr, Protocol: 58, First: 0x0806, MAC: [6]byte{1, 2, 3, 4, 5, 6}, Port: [16]byte{'v', 'e', 't', 'h'}}}},
			nft.DeleteElements{Set: f.String(), Type: of, Elements: []nft.Element{addr}},
		)
	}
	blocks, ports := nft.RangesOf(nft.IPv4Addr), nft.RangesOf(nft.InetProto, nft.InetService)
	ops = append(ops,
		nft.AddSet{Name: "blocks", Type: blocks},
		nft.AddElements{Set: "blocks", Type: blocks, Elements: []nft.Element{
			nft.PrefixElement(netip.MustParsePrefix("10.1.0.0/16")), nft.PrefixElement(netip.MustParsePrefix("128.0.0.0/1")),
		}},
		nft.AddSet{Name: "ports", Type: ports},
		nft.AddElements{Set: "ports", Type: ports, Elements: []nft.Element{nft.PortsElement(policy.SCTP, 8000, 8999)}},
		nft.AddSet{Name: "rates", Type: nft.Of(nft.IPv4Addr, nft.IfName), Dynamic: true, Timeout: 60},
		nft.AddSet{Name: "map", Type: nft.Of(nft.IPv4Addr), Map: true},
		nft.AddVerdicts{Map: "map", Type: nft.Of(nft.IPv4Addr), Entries: []nft.VerdictEntry{
			{Key: addr, Verdict: nft.Verdict{Action: nft.Jump, Chain: "plain"}}, {Key: addr, Verdict: nft.Verdict{Action: nft.Drop}},
		}},
		hook,
		nft.AddChain{Name: "nat", Hook: &nft.Hook{Point: nft.Postrouting, Base: nft.SrcNAT, NAT: true}},
		nft.SetRules{Chain: "base", Rules: rules},
		nft.DeleteSet{Name: "old"}, nft.DeleteChain{Name: "old"},
	)
	return nft.Plan{Family: family, Replace: true, Ops: ops}
}

// TestTransactions: all that is in the transactions that make the golden tables is known to the description of
// the kernel's messages, so that TestByteOrder leaves nothing out. With -transactions it writes what each says:
// make test-arch compares the architectures'.
func TestTransactions(t *testing.T) {
	paths, err := filepath.Glob("../testdata/*.nft")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens in ../testdata: %v", err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".nft")
		datagram, err := kernel.TransactionOf(tableOf(t, strings.TrimSuffix(path, ".nft")).Replacement(), false)
		if err != nil {
			t.Fatal(err)
		}
		says, err := kernel.Neutral(datagram)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if *transactions != "" {
			if err := os.WriteFile(filepath.Join(*transactions, name+".txt"), []byte(says), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d transactions, %s", len(paths), binary.NativeEndian)
}
