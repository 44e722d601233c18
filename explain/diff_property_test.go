package explain_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// oneFamily is a random cluster of pods that have addresses of one family, and of their own.
func oneFamily(r *rand.Rand) *explain.Cluster {
	c := randomCluster(r)
	c.PodAddresses = nil
	c.Pods = slices.DeleteFunc(c.Pods, func(pod *corev1.Pod) bool { return pod.Spec.HostNetwork })
	four := r.Intn(2) == 0
	for i, pod := range c.Pods {
		copied := pod.DeepCopy()
		copied.Status.PodIPs, copied.Status.PodIP = nil, ""
		for _, ip := range pod.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil && addr.Unmap().Is4() == four {
				copied.Status.PodIPs, copied.Status.PodIP = append(copied.Status.PodIPs, ip), ip.IP
				break
			}
		}
		c.Pods[i] = copied
	}
	return c
}

// mutated is a cluster after some changes: of policies, of labels of pods and of namespaces.
func mutated(r *rand.Rand, old *explain.Cluster) *explain.Cluster {
	c := *old
	other := random.Cluster(r, 14, 8)
	c.Policies, c.ClusterPolicies = slices.Clone(old.Policies), slices.Clone(old.ClusterPolicies)
	for range r.Intn(3) {
		if len(c.Policies) > 0 && r.Intn(2) == 0 {
			at := r.Intn(len(c.Policies))
			c.Policies = slices.Delete(c.Policies, at, at+1)
		} else if len(other.Policies) > 0 {
			np := other.Policies[r.Intn(len(other.Policies))].DeepCopy()
			np.Name = fmt.Sprintf("new-%d", r.Intn(1000))
			c.Policies = append(c.Policies, np)
		}
	}
	if len(c.ClusterPolicies) > 0 && r.Intn(2) == 0 {
		c.ClusterPolicies = c.ClusterPolicies[1:]
	}
	for i, np := range c.Policies {
		if r.Intn(6) == 0 { // it comes into force, or is staged
			np = np.DeepCopy()
			if is, _ := policy.StagedBy(np.Annotations); is {
				np.Annotations = nil
			} else {
				np.Annotations = map[string]string{policy.EnforcementAnnotation: policy.Staged}
			}
			c.Policies[i] = np
		}
	}
	c.Pods = slices.Clone(old.Pods)
	for i, pod := range c.Pods {
		if r.Intn(6) == 0 {
			c.Pods[i] = pod.DeepCopy()
			c.Pods[i].Labels = random.Labels(r)
		}
	}
	c.Namespaces = slices.Clone(old.Namespaces)
	for i, ns := range c.Namespaces {
		if r.Intn(4) == 0 {
			c.Namespaces[i] = ns.DeepCopy()
			c.Namespaces[i].Labels = random.Labels(r)
		}
	}
	return &c
}

// diffPorts are where pairs are asked about: ports that random rules have, and their neighbours.
var diffPorts = []uint16{1, 52, 53, 79, 80, 81, 443, 444, 5432, 8000, 8080, 8081, 9090, 32768, 65535}

// diffProtocols are the protocols that pairs are asked about, by what OpenPorts calls them. GRE stands for those
// without ports, which count as if they had all.
var diffProtocols = map[string]policy.Protocol{"TCP": policy.TCP, "UDP": policy.UDP, "SCTP": policy.SCTP, explain.OtherProtocols: 47}

// changesByJudge are for how many pairs of pods each port is opened or closed, by policy.Judge, who sees
// the whole cluster each time.
func changesByJudge(old, now *explain.Cluster, o policy.JudgeOptions) tally {
	want := tally{}
	addrs := map[*corev1.Pod]netip.Addr{}
	var pods []int
	for i, pod := range old.Pods {
		addr, err := netip.ParseAddr(pod.Status.PodIP)
		if err == nil && slices.Contains(policy.HolderOf(old.Snapshot, addr.Unmap()).Pods, pod) {
			addrs[pod] = addr.Unmap()
			pods = append(pods, i)
		}
	}
	for _, i := range pods {
		for _, j := range pods {
			if i == j {
				continue
			}
			for name, protocol := range diffProtocols {
				for _, port := range diffPorts {
					p := policy.Packet{Src: addrs[old.Pods[i]], Dst: addrs[old.Pods[j]], Protocol: protocol, DstPort: port, HopLimit: 64}
					if name == explain.OtherProtocols {
						p.DstPort = 0
					}
					before, after := policy.Judge(old.Snapshot, p, o).Allowed(), policy.Judge(now.Snapshot, p, o).Allowed()
					if before != after {
						want[fmt.Sprintf("%s -> %s %d/%s opened=%t", partyText(old.Pods[i]), partyText(old.Pods[j]), port, name, after)]++
					}
				}
			}
		}
	}
	return want
}

// changesOf are the same by a Diff.
func changesOf(t *testing.T, d *explain.Diff) tally {
	t.Helper()
	got := tally{}
	for opened, changes := range map[bool][]explain.Change{true: d.Opened, false: d.Closed} {
		for _, c := range changes {
			if !ofPods(c.From) || !ofPods(c.To) {
				continue
			}
			for _, of := range c.Open {
				in := inRanges(t, of.Ports)
				for _, port := range diffPorts {
					if in(port) {
						got[fmt.Sprintf("%s -> %s %d/%s opened=%t", c.From, c.To, port, of.Protocol, opened)] += c.Pairs
					}
				}
			}
		}
	}
	return got
}

// TestDiffIsWhatJudgeSays: for random changes of random clusters, a Diff counts the very pairs and ports
// for which policy.Judge says something else of the two. Each change names what decided on both sides.
func TestDiffIsWhatJudgeSays(t *testing.T) {
	changed, empty, others := 0, 0, 0
	for s := *seed; s < *seed+30; s++ {
		r := rand.New(rand.NewSource(s))
		old := oneFamily(r)
		now := mutated(r, old)
		o := policy.JudgeOptions{AllowToNode: r.Intn(2) == 0, StagedInForce: r.Intn(3) == 0}
		d := explain.Compare(explain.New(old, o), explain.New(now, o))
		got, want := changesOf(t, d), changesByJudge(old, now, o)
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: the diff has\n%s\nand Judge\n%s", s, lines(got, want), lines(want, got))
		}
		for key := range want {
			if strings.Contains(key, " 1/"+explain.OtherProtocols+" ") {
				others++
			}
		}
		if changed += len(want); d.Empty() {
			empty++
		}
		for _, c := range slices.Concat(d.Opened, d.Closed) {
			sidesAreTrue(t, s, c, slices.Contains(texts(d.Opened), text(c)))
		}
	}
	t.Logf("%d ports of pairs of parties changed, and of %d protocols without ports; %d of 30 diffs were empty", changed, others, empty)
	if changed < 1000 || others < 50 || empty < 3 {
		t.Error("too few of them changed, or were empty")
	}
}

func text(c explain.Change) string {
	out, _ := json.Marshal(c)
	return string(out)
}

func texts(all []explain.Change) (out []string) {
	for _, c := range all {
		out = append(out, text(c))
	}
	return out
}

// sidesAreTrue holds that a change is by a side that denied before and allows now, or the other way round.
func sidesAreTrue(t *testing.T, seed int64, c explain.Change, opened bool) {
	t.Helper()
	turned := 0
	for _, side := range c.Sides {
		if side.Before.Reason == "" || side.After.Reason == "" || side.Before.Verdict == side.After.Verdict {
			t.Fatalf("seed %d: %s", seed, text(c))
		}
		if (side.After.Verdict == explain.Allowed) == opened {
			turned++
		}
	}
	if turned == 0 {
		t.Fatalf("seed %d: no side is the cause: %s", seed, text(c))
	}
}

// TestOrderIsNoMatter: the order of objects changes neither a Reach nor a matrix nor a Diff.
func TestOrderIsNoMatter(t *testing.T) {
	for s := *seed; s < *seed+10; s++ {
		r := rand.New(rand.NewSource(s))
		old := oneFamily(r)
		now := mutated(r, old)
		want := everything(t, old, now)
		if got := everything(t, shuffled(r, old), shuffled(r, now)); got != want {
			a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
			for i := range min(len(a), len(b)) {
				if a[i] != b[i] {
					t.Fatalf("seed %d: line %d, in another order\n%s\nbefore\n%s", s, i, a[i], b[i])
				}
			}
			t.Fatalf("seed %d: %d lines in another order, %d before", s, len(a), len(b))
		}
	}
}

func everything(t *testing.T, old, now *explain.Cluster) string {
	t.Helper()
	x, y := explain.New(old, policy.JudgeOptions{}), explain.New(now, policy.JudgeOptions{})
	m, err := x.Matrix("")
	if err != nil {
		t.Fatal(err)
	}
	all := []any{m, explain.Compare(x, y)}
	for _, name := range []string{"shop", "db", "ops"} {
		if reach, err := x.Reach(explain.Target{Kind: explain.KindNamespace, Name: name}); err == nil {
			all = append(all, reach)
		}
	}
	out, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), "},", "},\n")
}

// shuffled is a cluster with its objects in another order.
func shuffled(r *rand.Rand, old *explain.Cluster) *explain.Cluster {
	c := *old
	c.Pods, c.Policies, c.ClusterPolicies = slices.Clone(c.Pods), slices.Clone(c.Policies), slices.Clone(c.ClusterPolicies)
	c.Namespaces, c.Nodes = slices.Clone(c.Namespaces), slices.Clone(c.Nodes)
	r.Shuffle(len(c.Pods), func(i, j int) { c.Pods[i], c.Pods[j] = c.Pods[j], c.Pods[i] })
	r.Shuffle(len(c.Policies), func(i, j int) { c.Policies[i], c.Policies[j] = c.Policies[j], c.Policies[i] })
	r.Shuffle(len(c.ClusterPolicies), func(i, j int) {
		c.ClusterPolicies[i], c.ClusterPolicies[j] = c.ClusterPolicies[j], c.ClusterPolicies[i]
	})
	r.Shuffle(len(c.Namespaces), func(i, j int) { c.Namespaces[i], c.Namespaces[j] = c.Namespaces[j], c.Namespaces[i] })
	return &c
}
