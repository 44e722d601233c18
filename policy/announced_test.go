package policy_test

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// twoNodes is a small cluster in which only what is announced matters: on this node db, which lets in the
// pods labelled app=web; on another node web.
func twoNodes(web *corev1.Pod, announced *v1alpha1.PodAddresses) policy.Snapshot {
	db := podAt("db", random.Node, "10.244.1.2")
	s := policy.Snapshot{Node: random.Node, Pods: []*corev1.Pod{db}, Policies: []*networkingv1.NetworkPolicy{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
				PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			}}}},
		},
	}}}
	for _, n := range [][2]string{{random.Node, "10.244.1.0/24"}, {random.OtherNode, "10.244.2.0/24"}} {
		s.Nodes = append(s.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n[0]}, Spec: corev1.NodeSpec{PodCIDRs: []string{n[1]}}})
	}
	if web != nil {
		s.Pods = append(s.Pods, web)
	}
	if announced != nil {
		s.PodAddresses = append(s.PodAddresses, announced)
	}
	return s
}

func podAt(name, node string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func announces(node string, pods ...v1alpha1.PodAddress) *v1alpha1.PodAddresses {
	return &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: node}, Pods: pods}
}

// letIn are the addresses that db lets in. The model, Compile and Judge must say the same.
func letIn(t *testing.T, s policy.Snapshot) (ips []string) {
	t.Helper()
	compiled, _ := policy.Compile(s, random.Node)
	m := policy.NewModel(random.Node)
	for _, e := range random.Events(s) {
		m.Apply(e.Change())
	}
	if diff := differ(compiled, m.Intent()); diff != "" {
		t.Errorf("the model differs from Compile:\n%s", diff)
	}
	for _, peers := range compiled.Peers {
		for ip := range peers {
			ips = append(ips, ip.String())
		}
	}
	slices.Sort(ips)
	for _, text := range []string{"10.244.1.9", "10.244.2.3", "10.244.2.4", "10.244.3.3", "172.31.0.1"} {
		p := policy.Packet{Src: netip.MustParseAddr(text), Dst: netip.MustParseAddr("10.244.1.2"), Protocol: policy.TCP, DstPort: 80}
		if judged := policy.Judge(s, p, policy.JudgeOptions{}).Ingress.Allowed; judged != slices.Contains(ips, text) {
			t.Errorf("%s: Judge says %t, Compile has %v", text, judged, ips)
		}
	}
	return ips
}

// TestAnnounced: what an announcement counts for.
func TestAnnounced(t *testing.T) {
	web := func(ips ...string) *corev1.Pod { return podAt("web", random.OtherNode, ips...) }
	said := func(ips []string, supersedes ...string) v1alpha1.PodAddress {
		return v1alpha1.PodAddress{Namespace: "shop", Name: "web", UID: "uid-web", IPs: ips, Supersedes: supersedes}
	}
	first, second := []string{"10.244.2.3"}, []string{"10.244.2.4"}
	of := func(pod v1alpha1.PodAddress) *v1alpha1.PodAddresses { return announces(random.OtherNode, pod) }
	static := web()
	static.UID, static.Annotations = "mirror", map[string]string{corev1.MirrorPodAnnotationKey: "uid-web"}
	ended := web()
	ended.Status.Phase = corev1.PodSucceeded
	older := said(first)
	older.UID = "uid-of-an-earlier-pod"
	for name, c := range map[string]struct {
		s    policy.Snapshot
		want []string
	}{
		"the status shows nothing yet":             {twoNodes(web(), of(said(first))), first},
		"the status shows the same":                {twoNodes(web(first...), of(said(first))), first},
		"the status shows the last sandbox's":      {twoNodes(web(first...), of(said(second, first...))), second},
		"the status shows others":                  {twoNodes(web(first...), of(said(second))), first},
		"the status has gone on":                   {twoNodes(web(first...), of(said(second, "10.244.2.9"))), first},
		"nothing was announced":                    {twoNodes(web(), nil), nil},
		"its node's agent has taken it back":       {twoNodes(web(), announces(random.OtherNode)), nil},
		"by its UID alone, of a static pod":        {twoNodes(static, of(said(first))), first},
		"of a pod that has ended":                  {twoNodes(ended, of(said(first))), nil},
		"of a pod that is not known":               {twoNodes(nil, of(said(first))), nil},
		"of an earlier pod of the name":            {twoNodes(web(), of(older)), nil},
		"by another node's agent":                  {twoNodes(web(), announces(random.Node, said(first))), nil},
		"by the agent of a node that is not known": {twoNodes(podAt("web", "no-node"), announces("no-node", said(first))), nil},
		"of this node's pod, by its own agent":     {twoNodes(podAt("web", random.Node), announces(random.Node, said([]string{"10.244.1.9"}))), nil},
		"an address of this node":                  {twoNodes(web(), of(said([]string{"10.244.1.9"}))), nil},
		"an address of no range":                   {twoNodes(web(), of(said([]string{"172.31.0.1"}))), nil},
		"one address in its range, one not":        {twoNodes(web(), of(said([]string{"10.244.2.3", "172.31.0.1"}))), nil},
		"an address that cannot be read":           {twoNodes(web(), of(said([]string{"10.244.2.3", "somewhere"}))), nil},
		"supersedes cannot be read":                {twoNodes(web(), of(said(first, "somewhere"))), nil},
		"one pod twice":                            {twoNodes(web(), announces(random.OtherNode, said(first), said(second))), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := letIn(t, c.s); !slices.Equal(got, c.want) {
				t.Errorf("let in: %v, want %v", got, c.want)
			}
		})
	}
	t.Run("an address of two pods", func(t *testing.T) {
		s := twoNodes(web(), of(said(first)))
		s.Pods = append(s.Pods, podAt("stranger", random.OtherNode, first...))
		if got := letIn(t, s); got != nil {
			t.Errorf("let in: %v", got)
		}
	})
	t.Run("ranges are ignored", func(t *testing.T) {
		m := policy.NewModel(random.Node)
		m.IgnorePodCIDRs()
		for _, e := range random.Events(twoNodes(web(), of(said([]string{"172.31.0.1"})))) {
			m.Apply(e.Change())
		}
		var got []string
		for _, peers := range m.Intent().Peers {
			for ip := range peers {
				got = append(got, ip.String())
			}
		}
		if !slices.Equal(got, []string{"172.31.0.1"}) {
			t.Errorf("let in: %v", got)
		}
	})
	t.Run("a node without ranges", func(t *testing.T) {
		s := twoNodes(web(), of(said([]string{"172.31.0.1"})))
		s.Nodes[1].Spec.PodCIDRs = nil
		if got := letIn(t, s); !slices.Equal(got, []string{"172.31.0.1"}) {
			t.Errorf("let in: %v", got)
		}
	})
}

// TestAnnouncedHistories: however announcements, pods and their nodes change, the model has what
// Compile says.
func TestAnnouncedHistories(t *testing.T) {
	for seed := range random.Seeds(*seed, 10*(*histories)) {
		r := rand.New(rand.NewSource(seed))
		m := policy.NewModel(random.Node)
		have := m.Intent()
		var history []random.Event
		for _, o := range random.Objects(twoNodes(nil, nil)) {
			history = append(history, random.Event{Object: o})
			m.Apply(policy.ChangeOf(o))
		}
		for range 20 {
			name := fmt.Sprintf("web-%d", r.Intn(2))
			ip := func() string { return fmt.Sprintf("10.244.%d.%d", 2+r.Intn(2), 3+r.Intn(2)) }
			var o client.Object
			node := []string{random.OtherNode, random.OtherNode, "node-3"}[r.Intn(3)]
			switch r.Intn(6) {
			case 0, 1:
				p := podAt(name, node)
				p.Labels = map[string]string{"app": []string{"web", "web", "stranger"}[r.Intn(3)]}
				if r.Intn(2) == 0 {
					p.Status.PodIPs = []corev1.PodIP{{IP: ip()}}
				}
				o = p
			case 2, 3, 4:
				said := announces(node)
				for range r.Intn(3) {
					pod := fmt.Sprintf("web-%d", r.Intn(2))
					one := v1alpha1.PodAddress{Namespace: "shop", Name: pod, UID: types.UID("uid-" + pod), IPs: []string{ip()}}
					if r.Intn(2) == 0 {
						one.Supersedes = []string{ip()}
					}
					said.Pods = append(said.Pods, one)
				}
				o = said
			default:
				n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
				n.Spec.PodCIDRs = [][]string{nil, {"10.244.2.0/24"}, {"10.244.3.0/24"}, {"10.244.2.0/23"}}[r.Intn(4)]
				o = n
			}
			event := random.Event{Object: o, Delete: r.Intn(5) == 0}
			history = append(history, event)
			m.Apply(event.Change())
			drained(t, m, &have)
			want, _ := policy.Compile(random.Snapshot(history), random.Node)
			if diff := differ(want, have); diff != "" || t.Failed() {
				t.Fatalf("seed %d: the model differs from Compile:\n%s\nafter %+v", seed, diff, history)
			}
		}
	}
}
