package explain_test

import (
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// probesOf are the probes of all answers, in words.
func probesOf(e *explain.Explanation) (texts []string) {
	for _, a := range e.Answers {
		for _, p := range a.Probes {
			q := p.Question
			texts = append(texts, fmt.Sprintf("%s: %s -> %s %s/%d %s", p.Node, q.Src, q.Dst, q.Protocol, q.Port, p.Expected))
		}
	}
	slices.Sort(texts)
	return texts
}

// TestProbes: the kernels that are asked are those of the nodes where policies are enforced, each about a pod
// that is there, in both families.
func TestProbes(t *testing.T) {
	c := load(t, "cluster.yaml", "service-port.yaml")
	c.Workloads = []*metav1.PartialObjectMetadata{{TypeMeta: metav1.TypeMeta{Kind: "DaemonSet"}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "all"}}}
	for i, node := range []string{"node-1", "node-2", "node-2", "node-3", ""} {
		ip := fmt.Sprintf("10.244.%d.10%d", i+1, i)
		c.Pods = append(c.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("all-%d", i), Labels: map[string]string{"app": "client"}, OwnerReferences: owner("DaemonSet", "all")},
			Spec:       corev1.PodSpec{NodeName: node},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}, {IP: fmt.Sprintf("fd00:%d::%d", i+1, i+1)}}},
		})
	}
	for i, node := range []string{"node-1", "node-2"} {
		c.Pods = append(c.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("two-%d", i), OwnerReferences: owner("DaemonSet", "two")},
			Spec:       corev1.PodSpec{NodeName: node},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.6%d", i+1, i+1)}}},
		})
	}
	for _, pod := range c.Pods {
		if pod.Name == "web-0" {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: "fd00:1::10"})
		}
	}
	x := explain.New(c, policy.JudgeOptions{})
	for _, test := range []struct {
		from, to string
		want     []string
	}{
		{"ds/shop/two", "ds/shop/two:81", []string{
			// Pods of one kind, none of which is asked about itself.
			"node-1: 10.244.1.61 -> 10.244.2.62 tcp/81 Allowed", "node-1: 10.244.2.62 -> 10.244.1.61 tcp/81 Allowed",
			"node-2: 10.244.1.61 -> 10.244.2.62 tcp/81 Allowed", "node-2: 10.244.2.62 -> 10.244.1.61 tcp/81 Allowed",
		}},
		{"shop/client-0", "shop/web-0:80", []string{"node-1: 10.244.2.10 -> 10.244.1.10 tcp/80 Allowed", "node-2: 10.244.2.10 -> 10.244.1.10 tcp/80 Allowed"}},
		// The client's node lets it go: only the other denies it.
		{"shop/client-0", "shop/web-0:81", []string{"node-1: 10.244.2.10 -> 10.244.1.10 tcp/81 Denied", "node-2: 10.244.2.10 -> 10.244.1.10 tcp/81 Allowed"}},
		{"node/node-1", "shop/web-0:81", []string{"node-1: 192.168.0.1 -> 10.244.1.10 tcp/81 Allowed"}},
		{"203.0.113.1", "shop/web-0:81/UDP", []string{"node-1: 203.0.113.1 -> 10.244.1.10 udp/81 Denied"}},
		{"shop/web-0", "203.0.113.1:81", []string{"node-1: 10.244.1.10 -> 203.0.113.1 tcp/81 Allowed"}},
		{"shop/client-0", "kube-system/node-exporter-0:81", []string{"node-2: 10.244.2.10 -> 192.168.0.2 tcp/81 Allowed"}},
		{"shop/client-0", "shop/web-0", nil}, // which port is not asked
		{"node/node-1", "203.0.113.1:81", nil},
		{"ds/shop/all", "shop/web-0:80", []string{
			// One of each node, and the one whose node is not known. web-0's node decides about all of them.
			"node-1: 10.244.1.100 -> 10.244.1.10 tcp/80 Allowed",
			"node-1: 10.244.2.101 -> 10.244.1.10 tcp/80 Allowed",
			"node-1: 10.244.4.103 -> 10.244.1.10 tcp/80 Allowed",
			"node-1: 10.244.5.104 -> 10.244.1.10 tcp/80 Allowed",
			"node-1: fd00:1::1 -> fd00:1::10 tcp/80 Allowed",
			"node-1: fd00:2::2 -> fd00:1::10 tcp/80 Allowed",
			"node-1: fd00:4::4 -> fd00:1::10 tcp/80 Allowed",
			"node-1: fd00:5::5 -> fd00:1::10 tcp/80 Allowed",
			"node-2: 10.244.2.101 -> 10.244.1.10 tcp/80 Allowed",
			"node-2: fd00:2::2 -> fd00:1::10 tcp/80 Allowed",
			"node-3: 10.244.4.103 -> 10.244.1.10 tcp/80 Allowed",
			"node-3: fd00:4::4 -> fd00:1::10 tcp/80 Allowed",
		}},
	} {
		q, err := explain.ParseQuestion(test.from, test.to, "default")
		if err != nil {
			t.Fatal(err)
		}
		e, err := x.Explain(q)
		if err != nil {
			t.Fatal(err)
		}
		if got := probesOf(e); !slices.Equal(got, test.want) {
			t.Errorf("%s:\n%s\nwant\n%s", q, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

// TestProbesAgreeWithTable: what a node is expected to do is what its compiled table does.
func TestProbesAgreeWithTable(t *testing.T) {
	asked, denied := 0, 0
	for s := *seed; s < *seed+60; s++ {
		r := rand.New(rand.NewSource(s))
		cluster := &explain.Cluster{Snapshot: random.Cluster(r, 12, 8)}
		cluster.Node, cluster.Attachments, cluster.LastPodCIDRs = "", nil, nil // what only the node knows
		view := cluster.Snapshot
		view.Node = random.Node
		x := explain.New(cluster, policy.JudgeOptions{})
		intent, _ := policy.Compile(cluster.Snapshot, random.Node)
		table := ruleset.Build(intent, ruleset.Options{})
		for range 40 {
			from, to := cluster.Pods[r.Intn(len(cluster.Pods))], cluster.Pods[r.Intn(len(cluster.Pods))]
			q := explain.Question{From: podTarget(from), To: podTarget(to), Port: explain.Port{Protocol: policy.TCP, Number: uint16(79 + r.Intn(3))}}
			e, err := x.Explain(q)
			if err != nil {
				t.Fatalf("seed %d: %s: %v", s, q, err)
			}
			for _, a := range e.Answers {
				for _, probe := range a.Probes {
					src, dst := probe.Question.Src, probe.Question.Dst
					hook, seen := random.Hook(cluster.Snapshot, policy.Packet{Src: src, Dst: dst})
					if probe.Node != random.Node || !seen || shared(cluster, src) || shared(cluster, dst) {
						continue
					}
					p := policy.Packet{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: probe.Question.Port, HopLimit: 64}
					if policy.Judge(view, p, policy.JudgeOptions{}).At(random.Node) != policy.Judge(cluster.Snapshot, p, policy.JudgeOptions{}).At(random.Node) {
						continue // the node does not believe that it is the pod's address
					}
					trace := table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New})
					if (trace.Verdict == nft.Accept) != (probe.Expected == explain.Allowed) {
						t.Fatalf("seed %d: %s: node %s is expected to have it %s, and its table says\n%s", s, q, probe.Node, probe.Expected, trace)
					}
					if asked++; probe.Expected == explain.Denied {
						denied++
					}
				}
			}
		}
	}
	if asked < 500 || denied < asked/10 {
		t.Errorf("%d probes, of which %d are denied", asked, denied)
	}
	t.Logf("%d probes, of which %d are denied", asked, denied)
}

// shared reports whether not exactly one pod has an address: of several, each node believes its own.
func shared(c *explain.Cluster, addr netip.Addr) bool {
	return len(policy.HolderOf(c.Snapshot, addr).Pods) != 1
}

// TestVerify: each answer of a kernel says in a line whether it does as policies say, by which rule, and what
// connection tracking knows.
func TestVerify(t *testing.T) {
	probe := explain.Probe{Node: "node-1", Expected: explain.Allowed}
	probe.From.Address, probe.To.Address = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	hooks := []answers.Hook{
		{Hook: "prerouting", Steps: []answers.Step{{Chain: "from", Action: "accept", Comment: "first"}}},
		{Hook: "forward", Steps: []answers.Step{{Chain: "to", Action: "drop", Comment: "NetworkPolicy a/b"}, {Chain: "forward", Action: "policy drop"}}},
	}
	for _, test := range []struct {
		expected             explain.Verdict
		verdict              answers.Verdict
		flows, revoked       int
		err, says, flowsFail string
		differs, asked       bool
	}{
		{explain.Allowed, answers.Pass, 0, 0, "", `kernel of node node-1 (10.0.0.1 -> 10.0.0.2): allowed by drop in chain to of forward ("NetworkPolicy a/b"); no such flow is in connection tracking`, "", false, true},
		{explain.Denied, answers.Drop, 3, 2, "", `kernel of node node-1 (10.0.0.1 -> 10.0.0.2): denied by policy drop in chain forward of forward; such flows in connection tracking: 3, of which revoked: 2`, "", false, true},
		{explain.Denied, answers.Reject, 0, 0, "", `denied by policy drop in chain forward of forward; flows could not be listed: no room`, "no room", false, true},
		{explain.Denied, answers.Pass, 0, 0, "", `kernel of node node-1 (10.0.0.1 -> 10.0.0.2) DIFFERS: it is allowed by`, "", true, true},
		{explain.Allowed, answers.Drop, 0, 0, "", `and policies say allowed; no such flow`, "", true, true},
		{explain.Unknown, answers.Drop, 0, 0, "", `kernel of node node-1 (10.0.0.1 -> 10.0.0.2): denied by`, "", false, true},
		{explain.Allowed, answers.Drop, 0, 0, "it is gone", `kernel of node node-1 (10.0.0.1 -> 10.0.0.2): not verified: it is gone`, "", false, false},
		{explain.Allowed, "maybe", 0, 0, "", `not verified: the agent's verdict is "maybe"`, "", false, false},
	} {
		var err error
		if test.err != "" {
			err = errors.New(test.err)
		}
		probe.Expected = test.expected
		v := probe.Verify(&answers.Trace{Verdict: test.verdict, Hooks: hooks, Question: probe.Question, FlowCount: test.flows, RevokedCount: test.revoked, FlowsError: test.flowsFail}, err)
		if !strings.Contains(v.String(), test.says) || v.Differs() != test.differs || v.Asked() != test.asked {
			t.Errorf("%s, differs: %t, asked: %t; want %+v", &v, v.Differs(), v.Asked(), test)
		}
		e := explain.Explanation{Answers: []explain.Answer{{Kernel: []explain.Verification{v}}}}
		differ, unasked := e.Differs()
		if (len(differ) == 1) != test.differs || (len(unasked) == 0) != test.asked {
			t.Errorf("%s: %d differ, %d unasked", &v, len(differ), len(unasked))
		}
		var text, red strings.Builder
		style := explain.Plain
		style.Denied = func(text string) string { return "<" + text + ">" }
		if err := errors.Join(e.WriteText(&text, explain.Plain), e.WriteText(&red, style)); err != nil || !strings.Contains(text.String(), "  "+v.String()+"\n") || strings.Contains(red.String(), "<kernel") != test.differs {
			t.Errorf("%v: %s%s", err, &text, &red)
		}
	}
}

// TestVerifyNamesTheRule: of a denial that is told, the rule that denies is named, and not the chain that tells.
func TestVerifyNamesTheRule(t *testing.T) {
	v := explain.Verification{Kernel: explain.Denied, Trace: &answers.Trace{Hooks: []answers.Hook{{Hook: "forward", Verdict: answers.Drop, Steps: []answers.Step{
		{Chain: "ingress-server", Action: "jump denied"}, {Chain: "denied", Action: "drop"},
	}}}}}
	if text := v.String(); !strings.Contains(text, "by drop in chain ingress-server of forward") {
		t.Error(text)
	}
}
