package ruleset_test

import (
	"math/rand"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// FuzzTable begins with a few histories of expectTable's, and goes on from there.
func FuzzTable(f *testing.F) {
	for seed := range int64(8) {
		f.Add(random.Tape(seed), []byte(nil), uint8(seed))
	}
	for _, np := range random.Cluster(rand.New(rand.NewSource(1)), 3, 3).Policies {
		encoded, err := random.Encoded(np)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte{0, 7, 1, 2, 3}, encoded, uint8(1))
	}
	f.Fuzz(expectTable)
}

// TestHostile goes through histories of expectTable's, without a fuzzer's guidance.
func TestHostile(t *testing.T) {
	for seed := range random.Seeds(*seed, 2**histories) {
		if expectTable(t, random.Tape(seed), nil, uint8(seed)); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// expectTable: whatever the API's objects say, within their Go types, and in
// whatever order they come: the table that is kept up to date by plans is the
// one that is built from scratch, every plan is one that the kernel takes, what
// is written of it can't be broken out of, and it lets through just what the
// verdict function says.
func expectTable(t *testing.T, tape, encoded []byte, options uint8) {
	t.Helper()
	o := ruleset.Options{Reject: options&1 != 0, AllowToNode: options&2 != 0, Guard: options&4 != 0, Masquerade: options&8 != 0, LongRun: int(options & 3)}
	history := random.Hostile(tape, encoded)
	m := policy.NewModel(random.Node)
	table := ruleset.Build(m.Intent(), o)
	fake := newFake(t)
	fake.apply(table.Replacement())
	for done := 0; done < len(history); {
		next := min(len(history), done+1+int(options>>4))
		for _, event := range history[done:next] {
			m.Apply(event.Change())
		}
		done = next
		for first := true; first || m.Pending(); first = false {
			plan := table.Update(m.Take())
			expectClean(t, "plan", plan.Text())
			fake.apply(plan)
		}
	}
	s := random.Snapshot(history)
	intent, problems := policy.Compile(s, random.Node)
	want := ruleset.Build(intent, o)
	if diff := cmp.Diff(want.Text(), table.Text()); diff != "" {
		t.Fatalf("the updated table is not the built one (-built +updated):\n%s", diff)
	}
	if diff := cmp.Diff(want.Text(), fake.text()); diff != "" || t.Failed() {
		t.Fatalf("plans made another table (-want +have):\n%s", diff)
	}
	expectNames(t, table, intent)
	expectClean(t, "table", table.Text())
	for _, problem := range problems {
		if strings.ContainsFunc(problem.Field+problem.Reason, unicode.IsControl) || len(problem.Reason) > 1000 {
			t.Errorf("a problem is not a line of text: %.1100q", problem.Reason)
		}
	}
	expectVerdicts(t, s, table, o, tape)
}

// word is what nft reads as one name, and line the form of every line that podfence
// writes: quotes hold no quote, backslash or control character.
var (
	word = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9/_.-]{0,126}$`)
	line = regexp.MustCompile(`^\t*[A-Za-z0-9]?[-A-Za-z0-9 ,.:;@<>!=&/{}_\t\x60]*("[ !#-\[\]-~]{0,127}"[-;A-Za-z0-9 ,.:/]*)*( \})?;?( \})?$`)
)

// expectClean: no text of an object ends a comment, a rule or a line.
func expectClean(t *testing.T, what, text string) {
	t.Helper()
	for l := range strings.Lines(text) {
		if l = strings.TrimSuffix(l, "\n"); !line.MatchString(l) {
			t.Fatalf("%s: a line of another form: %q", what, l)
		}
	}
}

// expectNames: the kernel and nft accept all names, and each name is used once.
func expectNames(t *testing.T, table *ruleset.Table, in policy.Intent) {
	t.Helper()
	have := 0
	for name, chain := range table.Chains {
		if !word.MatchString(name) {
			t.Errorf("chain %q", name)
		}
		of := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if chain.Hook == nil && !slices.ContainsFunc([]string{"discovery", "errors-", "shared-", "then-", "admin-", "policies-", "baseline-", "section-"}, of) {
			have++
		}
	}
	for name := range table.Sets {
		if !word.MatchString(name) {
			t.Errorf("set %q", name)
		}
	}
	want := 0
	for _, d := range policy.Directions {
		for _, p := range in.Policies {
			if p.Isolates[d] || p.Tier != policy.NetworkPolicyTier && len(p.Rules[d]) > 0 && !p.Passes(d) && !table.Indexes(d, p.Key) {
				want++
			}
		}
		for _, s := range in.Subjects {
			if s.Fenced(d) {
				want++
			}
		}
	}
	if have != want {
		t.Errorf("%d chains for %d policies and pods: some share a name", have, want)
	}
}

// expectVerdicts traces packets between the addresses that have one meaning.
func expectVerdicts(t *testing.T, s policy.Snapshot, table *ruleset.Table, o ruleset.Options, tape []byte) {
	t.Helper()
	at, own := addresses(s)
	if len(at) == 0 {
		return
	}
	r := rand.New(rand.NewSource(int64(len(tape))))
	pick := func() netip.Addr { return at[r.Intn(len(at))] }
	for range 40 {
		p := random.Packet(r, policy.Snapshot{})
		p.Src, p.Dst = pick(), pick()
		if r.Intn(3) == 0 {
			p.DstPort = []uint16{0, 1, 2, 80, 65534, 65535}[r.Intn(6)]
		}
		if own[p.Src] || p.Src.Is4() != p.Dst.Is4() {
			continue
		}
		if p.Protocol == policy.ICMP || p.Protocol == policy.ICMPv6 {
			p.Protocol, p.ICMPType = policy.ICMP, 8
			if !p.Src.Is4() {
				p.Protocol, p.ICMPType = policy.ICMPv6, 128
			}
		}
		p.Hairpin = p.Src == p.Dst
		hook := nft.Forward
		if own[p.Dst] {
			hook = nft.Input
		}
		verdict := policy.Judge(s, p, policy.JudgeOptions{AllowToNode: o.AllowToNode})
		trace := table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New})
		if want := verdict.At(random.Node); (trace.Verdict == nft.Accept) != want {
			t.Fatalf("%s at %s: the verdict is %v: %s\nthe trace says\n%s\n%s", p, hook, want, verdict, trace, table.Text())
		}
	}
}

// addresses are the addresses whose meaning in a cluster is clear: those of one pod, of one
// node, or of nobody, in the range of at most one node. If several nodes claim an address, or a
// node and a pod do, nobody can tell whose it is. Own are this node's addresses.
func addresses(s policy.Snapshot) (at []netip.Addr, own map[netip.Addr]bool) {
	own = map[netip.Addr]bool{}
	nodes, pods := map[netip.Addr]int{}, map[netip.Addr]int{}
	for _, n := range s.Nodes {
		// Judge knows a node by each of its addresses, whatever the type.
		all := n.DeepCopy()
		for i := range all.Status.Addresses {
			all.Status.Addresses[i].Type = corev1.NodeInternalIP
		}
		for _, addr := range policy.NodeOf(all).Addrs {
			nodes[addr]++
			own[addr] = own[addr] || n.Name == random.Node
		}
		for _, text := range policy.UnusableAddrs(all) {
			if addr, err := netip.ParseAddr(text); err == nil {
				nodes[addr.Unmap()] = 2 // no host's
			}
		}
	}
	for _, object := range s.Pods {
		if pod, live := policy.PodOf(object); live {
			for _, addr := range pod.IPs {
				pods[addr]++
			}
		}
	}
	candidates := slices.Clone(random.Outside)
	for addr := range nodes {
		candidates = append(candidates, addr)
	}
	for addr := range pods {
		candidates = append(candidates, addr)
	}
	slices.SortFunc(candidates, netip.Addr.Compare)
	for _, addr := range slices.Compact(candidates) {
		ranges := 0
		for _, n := range s.Nodes {
			if slices.ContainsFunc(policy.NodeOf(n).PodCIDRs, func(c netip.Prefix) bool { return c.Contains(addr) }) {
				ranges++
			}
		}
		if nodes[addr] > 1 || nodes[addr] == 1 && (pods[addr] > 0 || ranges > 0) || ranges > 1 {
			continue
		}
		at = append(at, addr)
	}
	return at, own
}
