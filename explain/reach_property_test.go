package explain_test

import (
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// randomCluster is a random cluster whose pods belong to a few workloads.
func randomCluster(r *rand.Rand) *explain.Cluster {
	c := &explain.Cluster{Snapshot: random.Cluster(r, 14, 8), NamesKnown: true}
	c.Resolutions = random.Resolutions(r, 14)
	c.Node, c.Attachments, c.LastPodCIDRs = "", nil, nil // what only the node knows
	for i, pod := range c.Pods {
		if r.Intn(4) == 0 {
			continue
		}
		copied := pod.DeepCopy()
		copied.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: fmt.Sprintf("w-%d", r.Intn(3)), Controller: new(true)}}
		c.Pods[i] = copied
	}
	for _, pod := range slices.Clone(c.Pods[:len(c.Pods)/3]) {
		c.Pods = append(c.Pods, twin(pod))
	}
	return c
}

// naming is a ClusterNetworkPolicy by which pods reach, of all addresses outside, those of names.
const naming = `
metadata: {name: naming}
spec:
  tier: Admin
  priority: 1000
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{domainNames: ["*.example.com"]}], protocols: [{tcp: {}}]}
  - {action: Accept, to: [{domainNames: [api.example.net, xample.com]}], protocols: [{udp: {destinationPort: {number: 53}}}]}
  - {action: Deny, to: [{networks: ["0.0.0.0/0", "::/0"]}]}
`

// twin is a pod that is like another to all policies, unless these tell their addresses apart.
func twin(pod *corev1.Pod) *corev1.Pod {
	out := pod.DeepCopy()
	out.Name += "-twin"
	out.UID += "-twin"
	for i, ip := range out.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			for range 50 {
				addr = addr.Next()
			}
			out.Status.PodIPs[i].IP = addr.String()
			if i == 0 {
				out.Status.PodIP = addr.String()
			}
		}
	}
	return out
}

// ofPods reports whether a party is of pods.
func ofPods(p explain.Party) bool {
	return p.Kind != explain.KindNodes && p.Kind != explain.KindNetwork && p.Kind != explain.KindDomain
}

func podTarget(pod *corev1.Pod) explain.Target {
	return explain.Target{Kind: explain.KindPod, Namespace: pod.Namespace, Name: pod.Name}
}

// openingsOf is what Explain says is open from one target to another, by address family; "" where the two
// families agree. It is nothing if they have no addresses of one family.
func openingsOf(t *testing.T, x *explain.Explainer, from, to explain.Target) map[string]string {
	t.Helper()
	e, err := x.Explain(explain.Question{From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{}
	for _, a := range e.Answers {
		family := "IPv6"
		if a.From.Address.Is4() {
			family = "IPv4"
		}
		open[family] = fmt.Sprint(a.Open)
	}
	texts := slices.Collect(maps.Values(open))
	if len(texts) == 1 || len(texts) == 2 && texts[0] == texts[1] {
		return map[string]string{"": texts[0]}
	}
	return open
}

// tally is for how many pairs each answer holds, by the two parties.
type tally map[string]int

func (c tally) add(from, to, family, open string, pairs int) {
	if open != "[]" {
		c[fmt.Sprintf("%s -> %s %s %s", from, to, family, open)] += pairs
	}
}

// live are the pods that an Explainer takes for ends.
func live(x *explain.Explainer, c *explain.Cluster) (pods []*corev1.Pod) {
	for _, pod := range c.Pods {
		if e, err := x.Explain(explain.Question{From: podTarget(pod), To: podTarget(pod)}); err == nil && len(e.Answers) > 0 {
			pods = append(pods, pod)
		}
	}
	return pods
}

func partyText(pod *corev1.Pod) string {
	if ref := metav1.GetControllerOf(pod); ref != nil {
		return fmt.Sprintf("sts/%s/%s", pod.Namespace, ref.Name)
	}
	return pod.Namespace + "/" + pod.Name
}

// TestMatrixIsWhatExplainSays: for random clusters, the cells of a matrix count the very answers that
// Explain gives for each pair of pods, and for addresses in each of the networks.
func TestMatrixIsWhatExplainSays(t *testing.T) {
	cells, partly, inNetworks, byNames := 0, 0, 0, 0
	for s := *seed; s < *seed+6; s++ {
		r := rand.New(rand.NewSource(s))
		c := randomCluster(r)
		c.ClusterPolicies = append(c.ClusterPolicies, clusterPolicy(t, naming))
		x := explain.New(c, policy.JudgeOptions{AllowToNode: r.Intn(2) == 0})
		m, err := x.Matrix("")
		if err != nil {
			t.Fatal(err)
		}
		got, want := tally{}, tally{}
		for _, cell := range m.Cells {
			if isOutside(cell.From) || isOutside(cell.To) {
				continue
			}
			got.add(cell.From, cell.To, cell.Family, fmt.Sprint(cell.Open), cell.Pairs)
			if cells++; cell.Partly {
				partly++
			}
		}
		pods := live(x, c)
		for _, from := range pods {
			for _, to := range pods {
				if from == to {
					continue
				}
				for family, open := range openingsOf(t, x, podTarget(from), podTarget(to)) {
					want.add(partyText(from), partyText(to), family, open, 1)
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: the matrix has\n%s\nand Explain\n%s", s, lines(got, want), lines(want, got))
		}
		inNetworks += networksAgree(t, s, r, c, x, m, pods)
		byNames += namesAgree(t, s, c, x, m, pods)
	}
	t.Logf("%d cells, %d of them partly open, %d answers about addresses outside, %d cells of domain names", cells, partly, inNetworks, byNames)
	if cells < 100 || partly < 20 || inNetworks < 100 || byNames < 20 {
		t.Error("too few of them were compared")
	}
}

// lines are the lines of a tally that another does not have.
func lines(of, other tally) string {
	var all []string
	for key, n := range of {
		if other[key] != n {
			all = append(all, fmt.Sprintf("%s x%d", key, n))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// isOutside reports whether a party with a name is a network or a domain name.
func isOutside(name string) bool {
	_, err := netip.ParsePrefix(name)
	return err == nil || strings.HasPrefix(name, "outside") || strings.HasPrefix(name, "domain/")
}

// networksAgree holds what a matrix says of the network of random addresses outside against what Explain
// says of the addresses. It returns how often.
func networksAgree(t *testing.T, seed int64, r *rand.Rand, c *explain.Cluster, x *explain.Explainer, m *explain.ReachMatrix, pods []*corev1.Pod) (compared int) {
	t.Helper()
	var addrs []netip.Addr
	for range 6 {
		addrs = append(addrs, random.Outside[r.Intn(len(random.Outside))])
		for _, p := range m.Parties { // the last address of a network
			if p.Kind == explain.KindNetwork && p.Network.Addr().Is4() && p.Network.Bits() > 0 && r.Intn(2) == 0 {
				addr := p.Network.Masked().Addr().As4()
				for i := p.Network.Bits(); i < 32; i++ {
					addr[i/8] |= 1 << (7 - i%8)
				}
				addrs = append(addrs, netip.AddrFrom4(addr))
			}
		}
	}
	for _, addr := range addrs {
		outside := explain.Target{Kind: explain.KindAddress, Address: addr}
		if addr.IsMulticast() || addr.IsLoopback() {
			continue
		}
		if !isNobodys(x, addr) || slices.ContainsFunc(addrsOfNames(x, c), func(named netip.Addr) bool { return named == addr }) {
			continue // it is a pod's or a node's, or a domain name's
		}
		want, got := tally{}, tally{}
		parties := map[string]bool{}
		for _, pod := range pods {
			parties[partyText(pod)] = true
			for family, open := range openingsOf(t, x, outside, podTarget(pod)) {
				want.add("outside", partyText(pod), family, open, 1)
			}
			for family, open := range openingsOf(t, x, podTarget(pod), outside) {
				want.add(partyText(pod), "outside", family, open, 1)
			}
		}
		for party := range parties {
			for _, cell := range cellsOf(m, addr, "", party) {
				got.add("outside", party, cell.Family, fmt.Sprint(cell.Open), cell.Pairs)
			}
			for _, cell := range cellsOf(m, addr, party, "") {
				got.add(party, "outside", cell.Family, fmt.Sprint(cell.Open), cell.Pairs)
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: of %s the matrix has\n%s\nand Explain\n%s", seed, addr, lines(got, want), lines(want, got))
		}
		compared += len(want)
	}
	return compared
}

// isNobodys reports whether an address is no pod's and no node's.
func isNobodys(x *explain.Explainer, addr netip.Addr) bool {
	at := explain.Target{Kind: explain.KindAddress, Address: addr}
	e, _ := x.Explain(explain.Question{From: at, To: at})
	return len(e.Answers) == 1 && e.Answers[0].From.Kind == explain.KindAddress && e.Answers[0].From.Node == ""
}

// addrsOfNames are the addresses that a cluster's names have, those of some or of all.
func addrsOfNames(x *explain.Explainer, c *explain.Cluster, names ...string) (addrs []netip.Addr) {
	for _, r := range c.Resolutions {
		if (len(names) == 0 || slices.Contains(names, r.Name)) && !slices.Contains(addrs, r.Addr) && isNobodys(x, r.Addr) {
			addrs = append(addrs, r.Addr)
		}
	}
	return addrs
}

// namesAgree holds the cells of domain names against what Explain says of each of their addresses. Where there is no cell,
// Explain says the same of them as of the networks around them. It returns how many cells there are.
func namesAgree(t *testing.T, seed int64, c *explain.Cluster, x *explain.Explainer, m *explain.ReachMatrix, pods []*corev1.Pod) (cells int) {
	t.Helper()
	for _, domain := range m.Parties {
		if domain.Kind != explain.KindDomain {
			continue
		}
		addrs := addrsOfNames(x, c, domain.Name)
		if domain.Size != len(addrs) {
			t.Fatalf("seed %d: %s has %d addresses, want %v", seed, domain, domain.Size, addrs)
		}
		of := map[string][]*corev1.Pod{}
		for _, pod := range pods {
			of[partyText(pod)] = append(of[partyText(pod)], pod)
		}
		for party, pods := range of {
			got, want, around := map[string]int{}, map[string]int{}, map[string]bool{}
			for _, addr := range addrs {
				for _, cell := range cellsOf(m, addr, party, "") {
					around[fmt.Sprint(cell.Open)] = true
				}
				for _, pod := range pods {
					for _, open := range openingsOf(t, x, podTarget(pod), explain.Target{Kind: explain.KindAddress, Address: addr}) {
						want[open]++
					}
				}
			}
			any := false
			for _, cell := range m.Cells {
				if cell.From == party && cell.To == domain.String() {
					any = true
					if got[fmt.Sprint(cell.Open)] += cell.Pairs; len(cell.Open) > 0 {
						cells++
					}
				}
			}
			if !any { // it goes without saying
				delete(around, "[]")
				delete(want, "[]")
				if a, b := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(around)); !slices.Equal(a, b) {
					t.Fatalf("seed %d: nothing is said of %s to %s, where Explain has %q, and %q around it", seed, party, domain, a, b)
				}
				continue
			}
			if len(got) > 1 || got["[]"] == 0 {
				delete(want, "[]") // which is said only if all is closed
			}
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d: of %s to %s the matrix has %v, and Explain %v", seed, party, domain, got, want)
			}
		}
	}
	return cells
}

// cellsOf are the cells of an address outside and a party: those of the smallest network around it that
// has any.
func cellsOf(m *explain.ReachMatrix, addr netip.Addr, from, to string) (cells []explain.ReachCell) {
	bits := -1
	for _, p := range m.Parties {
		if p.Kind != explain.KindNetwork || !p.Network.Contains(addr) || p.Network.Bits() <= bits {
			continue
		}
		var of []explain.ReachCell
		for _, cell := range m.Cells {
			if from == "" && cell.From == p.String() && cell.To == to || to == "" && cell.To == p.String() && cell.From == from {
				of = append(of, cell)
			}
		}
		if len(of) > 0 {
			bits, cells = p.Network.Bits(), of
		}
	}
	return cells
}

// TestNodesAreWhatExplainSays: for random clusters, the rows of a namespace's pods with the nodes count the
// answers that Explain gives for each pod and each node. Pods of a node are another matter to it.
func TestNodesAreWhatExplainSays(t *testing.T) {
	rows, partly := 0, 0
	for s := *seed; s < *seed+10; s++ {
		r := rand.New(rand.NewSource(s))
		c := randomCluster(r)
		x := explain.New(c, policy.JudgeOptions{AllowToNode: r.Intn(2) == 0})
		pods := live(x, c)
		for _, namespace := range []string{"shop", "db", "ops"} {
			reach, err := x.Reach(explain.Target{Kind: explain.KindNamespace, Name: namespace})
			if err != nil {
				continue // there is no such namespace in this cluster
			}
			got, want := tally{}, tally{}
			for _, row := range slices.Concat(reach.Ingress, reach.Egress) {
				if row.From.Kind == explain.KindNodes || row.To.Kind == explain.KindNodes {
					got.add(row.From.String(), row.To.String(), row.Family, fmt.Sprint(row.Open), row.Pairs)
					if rows++; row.Partly {
						partly++
					}
				}
			}
			for _, node := range c.Nodes {
				at := explain.Target{Kind: explain.KindNode, Name: node.Name}
				for _, pod := range pods {
					if pod.Namespace != namespace {
						continue
					}
					for family, open := range openingsOf(t, x, at, podTarget(pod)) {
						want.add("nodes", partyText(pod), family, open, 1)
					}
					for family, open := range openingsOf(t, x, podTarget(pod), at) {
						want.add(partyText(pod), "nodes", family, open, 1)
					}
				}
			}
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d: of namespace %s reach has\n%s\nand Explain\n%s", s, namespace, lines(got, want), lines(want, got))
			}
		}
	}
	t.Logf("%d rows with nodes, %d of them partly open", rows, partly)
	if rows < 100 || partly < 20 {
		t.Error("too few of them were compared")
	}
}
