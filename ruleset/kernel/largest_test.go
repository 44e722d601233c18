package kernel_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

var largest = flag.Bool("largest", false, "replace tables as large as the API can have them: 100,000 pods, 10,000 policies")

// TestLargest replaces the table by that of a cluster of 100,000 pods, each with an
// address of both families, and 10,000 policies that are all active on this node: in one
// transaction, and by a socket that takes no more than the usual net.core.wmem_max, also
// while the same table is in force. Each time the kernel lists what nft makes of the text.
func TestLargest(t *testing.T) {
	if !*largest {
		t.Skip("skipped: it takes minutes, and several gigabytes: make limits, or -largest")
	}
	g := NewWithT(t)
	table := ruleset.Build(largestCluster().Intent(), ruleset.Options{})
	plan, size := table.Replacement(), table.Size()
	t.Logf("%d elements in %d sets and maps, %d rules in %d chains", size.Elements, size.Sets+size.Maps, size.Rules, size.Chains)
	g.Expect(size.Elements).To(BeNumerically(">", 2_000_000))
	g.Expect(size.Chains).To(BeNumerically(">", 10_000))

	reading := newNamespace(t)
	began := time.Now()
	reading.nft(table.Text(), "-f", "-")
	t.Logf("nft reads its text in %s", time.Since(began).Round(time.Millisecond))
	table = nil
	want := reading.lines()

	const usual = 212_992 // net.core.wmem_max of a kernel that nobody has told otherwise
	for _, way := range []struct {
		name string
		send int // 0: as much as it wants
		over nft.Plan
	}{
		{"in one transaction", 0, nft.Plan{}},
		{"in one transaction, over the same", 0, plan},
		{"in slices", usual, nft.Plan{}},
		{"in slices, over the same", usual, plan},
	} {
		t.Run(way.name, func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			g.Expect(c.Apply(way.over)).To(Succeed())
			if way.send > 0 {
				g.Expect(c.LimitSendBuffer(way.send)).To(Succeed())
			}
			before, most := settled(t), mostKernelMemory(t)
			base := resetPeak(t)
			began := time.Now()
			g.Expect(c.Apply(plan)).To(Succeed())
			took, used := time.Since(began), peak(t)-base
			highest := most()
			t.Logf("it takes %s; the process %.0f MB more at most; the kernel %.0f MB more at most, and %.0f MB in the end",
				took.Round(time.Millisecond), float64(used)/1e6, float64(highest-before)/1e6, float64(settled(t)-before)/1e6)
			names, err := c.InForce(nft.Inet)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(names).To(Equal([]string{"podfence"}))
			// While a large hash still grows, some elements are listed twice, others not.
			g.Eventually(func() string { return difference(n.lines(), want) }, "5m", "1s").Should(BeEmpty())
		})
	}
}

// TestLargestRefused names what is to blame of the largest replacement, in one
// transaction and in slices, and leaves what was in force.
func TestLargestRefused(t *testing.T) {
	if !*largest {
		t.Skip("skipped: it takes minutes, and several gigabytes: make limits, or -largest")
	}
	g := NewWithT(t)
	plan := ruleset.Build(largestCluster().Intent(), ruleset.Options{}).Replacement()
	culprit := slices.IndexFunc(plan.Ops, func(op nft.Op) bool {
		rules, is := op.(nft.SetRules)
		return is && strings.HasPrefix(rules.Chain, "policy-") && strings.HasSuffix(rules.Chain, "-ns-42/policy-51")
	})
	g.Expect(culprit).To(BeNumerically(">=", 0))
	rules := plan.Ops[culprit].(nft.SetRules)
	rules.Rules = append(slices.Clone(rules.Rules), nft.Rule{Verdict: jump("nowhere")})
	plan.Ops[culprit] = rules
	for _, send := range []int{0, 212_992} {
		n := newNamespace(t)
		c := n.open()
		g.Expect(c.Apply(fenced())).To(Succeed())
		before := n.list()
		if send > 0 {
			g.Expect(c.LimitSendBuffer(send)).To(Succeed())
		}
		began := time.Now()
		err := c.Apply(plan)
		t.Logf("refused after %s: %v", time.Since(began).Round(time.Millisecond), err)
		var refusal *nft.Refusal
		g.Expect(err).To(BeAssignableToTypeOf(refusal))
		g.Expect(err.(*nft.Refusal).Op).To(Equal(culprit))
		g.Expect(n.list()).To(Equal(before))
	}
}

// largestCluster is the model of a node that has 250 of 100,000 pods, in 100 namespaces,
// with 100 policies each. No budget closes any of them.
func largestCluster() *policy.Model {
	const pods, namespaces, policies, local = 100_000, 100, 10_000, 250
	m := policy.NewModel("here")
	m.SetBudget(100 * policy.DefaultBudget)
	for i := range namespaces {
		m.Apply(policy.SetNamespace(policy.Namespace{Name: fmt.Sprint("ns-", i), Labels: map[string]string{"team": fmt.Sprint(i % 10)}}))
	}
	for i := range pods {
		// Each namespace has two of the node's pods, or three.
		node := "there"
		if i < local {
			node = "here"
		}
		v4, v6 := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), netip.MustParseAddr("fd00::").As16()
		v6[13], v6[14], v6[15] = byte(i>>16), byte(i>>8), byte(i)
		m.Apply(policy.SetPod(&policy.Pod{
			Key: policy.Key{Namespace: fmt.Sprint("ns-", i%namespaces), Name: fmt.Sprint("pod-", i)}, Node: node,
			Labels: policy.LabelsOf(map[string]string{"app": fmt.Sprint(i / namespaces % 10), "tier": fmt.Sprint(i / namespaces % 3)}),
			IPs:    []netip.Addr{v4, netip.AddrFrom16(v6)},
			Ports:  []policy.ContainerPort{{Name: "http", Protocol: policy.TCP, Number: uint16(8000 + i%10)}},
		}))
	}
	for i := range policies {
		m.Apply(policy.SetPolicy(largestPolicy(i%namespaces, i/namespaces)))
	}
	return m
}

// largestPolicy is the nth policy of a namespace, of ten kinds in turn. It selects all of
// the namespace's pods.
func largestPolicy(of, n int) policy.Policy {
	namespace, turn := fmt.Sprint("ns-", of), n/10
	in, out := policy.Rule{AnyPort: true}, policy.Rule{AnyPort: true}
	switch n % 10 {
	case 0: // default deny
		return policyOf(namespace, n, nil, nil)
	case 1: // the namespace
		in.Peers = []policy.Selector{{Namespace: namespace}}
	case 2: // another team's namespaces
		in.Peers = []policy.Selector{{Namespaces: fmt.Sprintf("team=%d", turn)}}
	case 3: // an application in all of them
		out.Peers = []policy.Selector{{Pods: fmt.Sprintf("app=%d", turn)}}
	case 4: // all pods but those of one application
		in.Peers = []policy.Selector{{Pods: fmt.Sprintf("app!=%d", turn)}}
	case 5: // two applications of the namespace
		in.Peers = []policy.Selector{{Namespace: namespace, Pods: fmt.Sprintf("app=%d", turn)}, {Namespace: namespace, Pods: fmt.Sprintf("app=%d,tier!=0", turn)}}
	case 6: // a hundred ranges of addresses
		for i := range 100 {
			first := netip.AddrFrom4([4]byte{byte(100 + turn), byte(of), byte(i), 2})
			out.Blocks = append(out.Blocks, policy.AddrRange{First: first, Last: first.Next().Next()})
		}
	case 7: // a port's name
		in.AnyPort, in.Peers = false, []policy.Selector{{Namespace: namespace}}
		in.NamedPorts = []policy.NamedPort{{Protocol: policy.TCP, Name: "http", Scope: policy.Local}}
		out.AnyPort, out.AnyPeer = false, true
		out.NamedPorts = []policy.NamedPort{{Protocol: policy.TCP, Name: "http", Scope: policy.Cluster}}
	case 8: // ports, of any peer
		in.AnyPort, in.AnyPeer = false, true
		for i := range 20 {
			in.Ports = append(in.Ports, policy.PortRange{Protocol: policy.UDP, First: uint16(1000 + 10*i + turn), Last: uint16(1002 + 10*i + turn)})
		}
	case 9: // all pods of a tier, by a port
		out.AnyPort, out.Peers = false, []policy.Selector{{Pods: fmt.Sprintf("tier!=%d,app!=%d", turn%3, turn)}}
		out.Ports = []policy.PortRange{{Protocol: policy.TCP, First: uint16(1 + n), Last: uint16(1 + n)}}
	}
	rules := func(r policy.Rule) []policy.Rule {
		if !r.AnyPeer && len(r.Peers)+len(r.Blocks) == 0 {
			return nil
		}
		return []policy.Rule{r}
	}
	return policyOf(namespace, n, rules(in), rules(out))
}

func policyOf(namespace string, n int, in, out []policy.Rule) policy.Policy {
	return policy.Policy{
		Key: policy.Key{Namespace: namespace, Name: fmt.Sprint("policy-", n)}, Subject: &policy.Selector{Namespace: namespace},
		Isolates: [2]bool{true, true}, Rules: [2][]policy.Rule{policy.Ingress: in, policy.Egress: out},
	}
}

// lines are the lines of a listing in order.
func (n *namespace) lines() []string { return slices.Sorted(strings.Lines(n.list())) }

// difference is the first lines that two listings do not have in common; empty: none.
func difference(have, want []string) string {
	if slices.Equal(have, want) {
		return ""
	}
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] {
			return fmt.Sprintf("line %d is %s, not %s", i, have[i], want[i])
		}
	}
	return fmt.Sprintf("%d lines, not %d", len(have), len(want))
}

var memoryLine = regexp.MustCompile(`(?m)^(SUnreclaim|Percpu|VmallocUsed): +(\d+) kB$`)

// kernelMemory is how many bytes the kernel has for what it keeps, of the whole machine.
func kernelMemory(t *testing.T) (bytes int) {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Error(err)
	}
	for _, line := range memoryLine.FindAllSubmatch(text, -1) {
		kilobytes, _ := strconv.Atoi(string(line[2]))
		bytes += kilobytes << 10
	}
	return bytes
}

// settled is kernelMemory when no more of it is freed, such as that of a namespace that
// has gone.
func settled(t *testing.T) int {
	t.Helper()
	least, same := kernelMemory(t), 0
	for same < 5 {
		time.Sleep(time.Second)
		now := kernelMemory(t)
		if same++; now < least-1<<20 {
			least, same = now, 0
		}
	}
	return least
}

// mostKernelMemory looks until what it returns is called, which is the most that
// kernelMemory has been.
func mostKernelMemory(t *testing.T) func() int {
	done, most := make(chan struct{}), make(chan int)
	go func() {
		highest := 0
		for {
			highest = max(highest, kernelMemory(t))
			select {
			case <-done:
				most <- highest
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() int {
		close(done)
		return <-most
	}
}

// resetPeak has the most that this process takes be counted from now on, and is what it
// takes now.
func resetPeak(t *testing.T) (bytes int) {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return peak(t)
}

// peak is the most bytes of memory that this process has taken since resetPeak.
func peak(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := bytes.Cut(text, []byte("VmHWM:"))
	kilobytes, err := strconv.Atoi(strings.Fields(string(after))[0])
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}
