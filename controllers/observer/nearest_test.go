package observer_test

import (
	"flag"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

var denials = flag.Int("denials", 1_500, "of how many random denials the near miss is compared")

// known is what an agent knows of a cluster: a model, and the policies as they are.
type known struct {
	*policy.Model
	policy.Snapshot
}

// StagedEndsOf has of a second model which ClusterNetworkPolicies select the ends, as the enforcer has.
func (k *known) StagedEndsOf(src, dst netip.Addr) policy.Ends {
	ends, staged := k.EndsOf(src, dst), k.NewStaged().EndsOf(src, dst)
	ends.Src.ClusterPolicies, ends.Dst.ClusterPolicies = staged.Src.ClusterPolicies, staged.Dst.ClusterPolicies
	return ends
}

func (k *known) NetworkPolicy(key policy.Key) *networkingv1.NetworkPolicy {
	for _, np := range k.Policies {
		if np.Namespace == key.Namespace && np.Name == key.Name {
			return np
		}
	}
	return nil
}

func (k *known) ClusterNetworkPolicy(name string) *clusterv1beta1.ClusterNetworkPolicy {
	for _, cnp := range k.ClusterPolicies {
		if cnp.Name == name {
			return cnp
		}
	}
	return nil
}

// become has the agent know another cluster than before.
func (k *known) become(s policy.Snapshot) {
	for _, object := range objects(k.Snapshot) {
		if !slices.ContainsFunc(objects(s), func(o metav1.Object) bool {
			return fmt.Sprintf("%T", o) == fmt.Sprintf("%T", object) && o.GetNamespace() == object.GetNamespace() && o.GetName() == object.GetName()
		}) {
			k.Apply(policy.Gone(object))
		}
	}
	for _, object := range objects(s) {
		k.Apply(policy.ChangeOf(object))
	}
	k.Snapshot = s
}

// objects are all objects of a cluster, podfence's own too.
func objects(s policy.Snapshot) (all []metav1.Object) {
	for _, o := range random.Objects(s) {
		all = append(all, o)
	}
	for _, o := range s.PodAddresses {
		all = append(all, o)
	}
	return all
}

// deniedFlow is what an agent tells of a packet that one side denies.
func deniedFlow(p policy.Packet, d policy.Direction, j policy.Judgement) *flows.Flow {
	f := &flows.Flow{
		Verdict: flows.Denied, Direction: flows.Direction(d.String()), Protocol: p.Protocol.String(), Reason: flows.DefaultDeny,
		Source: flows.Endpoint{IP: p.Src, Port: 40000}, Destination: flows.Endpoint{IP: p.Dst, Port: p.DstPort},
	}
	for _, by := range j.DeniedBy {
		f.Reason = flows.ByRule
		f.Policies = append(f.Policies, flows.Policy{Kind: "ClusterNetworkPolicy", Name: by.Policy.Name, Rule: new(by.Rule)})
	}
	if f.Reason == flows.DefaultDeny {
		for _, key := range j.Isolating {
			f.Policies = append(f.Policies, flows.Policy{Kind: "NetworkPolicy", Namespace: key.Namespace, Name: key.Name})
		}
	}
	return f
}

// sameEnds reports whether the agent takes an address for whom package explain takes it for.
func sameEnds(end policy.End, holder policy.Holder) bool {
	switch {
	case end.Doubtful:
		return len(holder.Pods) != 1
	case end.Pod == nil:
		return len(holder.Pods) == 0 && holder.OnNode == (len(end.Nodes) > 0)
	}
	return len(holder.Pods) == 1 && holder.Pods[0].Namespace == end.Pod.Namespace && holder.Pods[0].Name == end.Pod.Name
}

// kinds are what near misses have to be about, in some of the random clusters.
var kinds = []string{
	"NetworkPolicy ", "ClusterNetworkPolicy ", " spec.ingress", " spec.egress", ": port ", "named port ", "label ", " is in the except ", " is not in ",
	"selectors mean pods, and ", "'s address", " is node ", "podSelector alone", "namespace",
}

// TestNearestIsWhatExplainSays compares the near miss of random denials with what package explain says of the
// same packet in the whole cluster. One agent knows one cluster after another, so that what it remembers of the
// last one would be found.
func TestNearestIsWhatExplainSays(t *testing.T) {
	agent := &known{Model: policy.NewModel(random.Node)}
	nearest := observer.NewNearest(agent, agent, nil)
	found, seen, asked, otherwise, doubtful := map[string]int{}, 0, 0, 0, 0
	for seed := int64(1); asked < *denials; seed++ {
		r := rand.New(rand.NewSource(seed))
		s := random.Cluster(r, 12, 8)
		s.Node, s.Attachments, s.LastPodCIDRs = "", nil, nil // what only the node knows
		agent.become(s)
		x := explain.New(&explain.Cluster{Snapshot: s, NamesKnown: true}, policy.JudgeOptions{})
		for range 100 {
			p := random.Packet(r, s)
			if p.DstPort == 0 || p.Protocol != policy.TCP && p.Protocol != policy.UDP && p.Protocol != policy.SCTP || p.Src == p.Dst || p.HopByHop || p.Extended {
				continue
			}
			p.HopLimit = 64
			v := policy.Judge(s, p, policy.JudgeOptions{})
			for _, at := range []struct {
				d    policy.Direction
				j    policy.Judgement
				side func(explain.Answer) explain.Side
			}{
				{policy.Egress, v.Egress, func(a explain.Answer) explain.Side { return a.Egress }},
				{policy.Ingress, v.Ingress, func(a explain.Answer) explain.Side { return a.Ingress }},
			} {
				if at.j.Allowed || at.j.Node != random.Node || !at.j.Fenced() {
					continue
				}
				asked++
				f := deniedFlow(p, at.d, at.j)
				got := nearest.Of(f)
				ends := agent.EndsOf(p.Src, p.Dst)
				if !sameEnds(ends.Src, policy.HolderOf(s, p.Src)) || !sameEnds(ends.Dst, policy.HolderOf(s, p.Dst)) {
					otherwise++ // as of an address of a pod of another node that is in this node's ranges
					continue
				}
				if ends.Src.Doubtful || ends.Dst.Doubtful {
					if doubtful++; got != "" {
						t.Fatalf("seed %d: %s: nobody can tell who has the addresses, and the near miss is %s", seed, p, got)
					}
					continue
				}
				e, err := x.Explain(explain.Question{
					From: explain.Target{Kind: explain.KindAddress, Address: p.Src}, To: explain.Target{Kind: explain.KindAddress, Address: p.Dst},
					Port: explain.Port{Protocol: p.Protocol, Number: p.DstPort},
				})
				if err != nil {
					t.Fatal(err)
				}
				want := oneThing(at.side(e.Answers[0]))
				if !same(got, want) {
					t.Fatalf("seed %d: %s of %s: the flow has %q, and explain %q", seed, at.d, p, got, want)
				}
				if again := nearest.Of(f); again != got {
					t.Fatalf("seed %d: %s of %s: %q at first, and then %q", seed, at.d, p, got, again)
				}
				if got == "" {
					continue
				}
				seen++
				for _, kind := range kinds {
					if strings.Contains(got, kind) {
						found[kind]++
					}
				}
			}
		}
	}
	t.Logf("%d denials, %d near misses, %d of addresses that the agent takes for others', %d of addresses that several pods show: %v", asked, seen, otherwise, doubtful, found)
	if seen < asked/10 || otherwise > asked/5 {
		t.Error("too few could be compared")
	}
	for _, kind := range kinds {
		if found[kind] == 0 {
			t.Errorf("no near miss has %q", kind)
		}
	}
}

// oneThing is the first near miss in which one thing failed, put together of what explain prints: the line
// of the policy, and that of the field.
func oneThing(side explain.Side) string {
	for _, m := range side.NearestMisses {
		if len(m.Failed) == 1 {
			return fmt.Sprintf("%s %s%s: %s", m.Rule.Policy, m.Rule.Path, strings.TrimPrefix(m.Failed[0].Path, m.Rule.Path), m.Failed[0].Reason)
		}
	}
	return ""
}

// same reports whether two texts are the same, but for what is cut off.
func same(got, want string) bool {
	cut, is := strings.CutSuffix(got, "…")
	return got == want || is && len(want) > len(got) && strings.HasPrefix(want, cut)
}

// shop is two pods, of which a policy lets the client reach the server's port 80.
func shop(change func(*networkingv1.NetworkPolicy)) policy.Snapshot {
	pod := func(name, ip string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: "node"},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}},
		}
	}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "server"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "server"}},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "client"}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromInt32(80))}},
		}},
	}}
	if change != nil {
		change(np)
	}
	return policy.Snapshot{
		Nodes:      []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node"}}},
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
		Pods:       []*corev1.Pod{pod("client", "10.0.0.2"), pod("server", "10.0.0.4")},
		Policies:   []*networkingv1.NetworkPolicy{np},
	}
}

// toServer is a denied packet of the client to a port of the server.
func toServer(port uint16) *flows.Flow {
	return &flows.Flow{
		Verdict: flows.Denied, Direction: flows.Ingress, Protocol: "TCP", Reason: flows.DefaultDeny,
		Source:      flows.Endpoint{IP: netip.MustParseAddr("10.0.0.2"), Port: 40000},
		Destination: flows.Endpoint{IP: netip.MustParseAddr("10.0.0.4"), Port: port},
		Policies:    []flows.Policy{{Kind: "NetworkPolicy", Namespace: "shop", Name: "server"}},
	}
}

// TestNearest: what no question of explain is about, and what there is nothing to say of.
func TestNearest(t *testing.T) {
	const rule = "NetworkPolicy shop/server spec.ingress[0]"
	for _, test := range []struct {
		name    string
		cluster policy.Snapshot
		flow    func(*flows.Flow)
		want    string
	}{
		{"a port", shop(nil), nil, rule + ".ports[0]: port 81 is not in 80"},
		{"ICMP", shop(nil), func(f *flows.Flow) {
			f.Protocol, f.ICMPType, f.Destination.Port = "ICMP", new(uint8(8)), 0
		}, rule + ".ports[0]: ICMP is not in TCP 80: only rules without ports mean it"},
		{"another protocol", shop(nil), func(f *flows.Flow) { f.Protocol, f.Destination.Port = "47", 0 }, rule + ".ports[0]: protocol 47 is not in TCP 80: only rules without ports mean it"},
		{"two things", shop(nil), func(f *flows.Flow) { f.Source.IP = netip.MustParseAddr("192.0.2.1") }, ""},
		{"by now it is allowed", shop(nil), func(f *flows.Flow) { f.Destination.Port = 80 }, ""},
		{"another rule denies it", shop(nil), func(f *flows.Flow) {
			f.Reason, f.Policies = flows.ByRule, []flows.Policy{{Kind: "ClusterNetworkPolicy", Name: "gone", Rule: new(0)}}
		}, ""},
		{"no policy denies it", shop(nil), func(f *flows.Flow) { f.Reason = flows.Revoked }, ""},
		{"it passes", shop(nil), func(f *flows.Flow) { f.Verdict = flows.Allowed }, ""},
		{"the policy is gone", shop(nil), func(f *flows.Flow) { f.Policies[0].Name = "gone" }, ""},
	} {
		agent := &known{Model: policy.NewModel("node")}
		agent.become(test.cluster)
		f := toServer(81)
		if test.flow != nil {
			test.flow(f)
		}
		if got := observer.NewNearest(agent, agent, nil).Of(f); got != test.want {
			t.Errorf("%s: %q instead of %q", test.name, got, test.want)
		}
	}
}

// TestNearestOfNames: the near miss of a packet to an address that a domain name had says until when it had it, and another
// one once somebody is told something else.
func TestNearestOfNames(t *testing.T) {
	s := shop(nil)
	s.Policies = nil
	s.ClusterPolicies = []*clusterv1beta1.ClusterNetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Spec: clusterv1beta1.ClusterNetworkPolicySpec{
		Tier: clusterv1beta1.AdminTier, Subject: clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
		Egress: []clusterv1beta1.ClusterNetworkPolicyEgressRule{
			{Action: clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{DomainNames: []clusterv1beta1.DomainName{"api.example.com"}}}},
			{Action: clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Networks: []clusterv1beta1.CIDR{"0.0.0.0/0"}}}},
		},
	}}}
	agent := &known{Model: policy.NewModel("node")}
	agent.become(s)
	agent.Take()
	nearest := observer.NewNearest(agent, agent, agent)
	const field = "ClusterNetworkPolicy outside spec.egress[0].to[0].domainNames[0]: "
	want := func(text string) {
		t.Helper()
		f := &flows.Flow{
			Verdict: flows.Denied, Direction: flows.Egress, Protocol: "TCP", Reason: flows.ByRule,
			Source: flows.Endpoint{IP: netip.MustParseAddr("10.0.0.2"), Port: 40000}, Destination: flows.Endpoint{IP: netip.MustParseAddr("203.0.113.7"), Port: 443},
			Policies: []flows.Policy{{Kind: "ClusterNetworkPolicy", Name: "outside", Rule: new(1)}},
		}
		if got := nearest.Of(f); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
	noAnswer := field + "no answer to the pod says that api.example.com has the address 203.0.113.7: does the pod ask the cluster's DNS, and for this name?"
	want(noAnswer)
	until := time.Date(2026, 12, 1, 12, 3, 4, 0, time.UTC)
	agent.Apply(policy.Resolved([]policy.Resolution{{Name: "api.example.com", Addr: netip.MustParseAddr("203.0.113.7"), Pod: netip.MustParseAddr("10.0.0.2"), Expires: until}}))
	want("") // by now it is allowed
	agent.Apply(policy.Elapsed(until))
	want(field + "api.example.com had the address 203.0.113.7 until 2026-12-01T12:03:04Z, which is over: the pod has to resolve it again, and does not, or not by the cluster's DNS")
	nearest = observer.NewNearest(agent, agent, nil)
	want(noAnswer)
}

// TestNearestOfStaged: what would be denied has the near miss that it would have with the staged policies in force,
// ClusterNetworkPolicies too; and what is denied has none of them.
func TestNearestOfStaged(t *testing.T) {
	staged := map[string]string{policy.EnforcementAnnotation: policy.Staged}
	cluster := shop(func(np *networkingv1.NetworkPolicy) { np.Annotations = staged })
	deny, accept := clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	everybody := []clusterv1beta1.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{}}}
	cluster.ClusterPolicies = []*clusterv1beta1.ClusterNetworkPolicy{{
		ObjectMeta: metav1.ObjectMeta{Name: "fence", Annotations: staged},
		Spec: clusterv1beta1.ClusterNetworkPolicySpec{
			Tier: clusterv1beta1.AdminTier, Subject: clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
			Ingress: []clusterv1beta1.ClusterNetworkPolicyIngressRule{
				{Action: accept, From: everybody, Protocols: []clusterv1beta1.ClusterNetworkPolicyProtocol{{TCP: &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: &clusterv1beta1.Port{Number: 90}}}}},
				{Action: deny, From: everybody, Protocols: []clusterv1beta1.ClusterNetworkPolicyProtocol{{TCP: &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: &clusterv1beta1.Port{Number: 91}}}}},
			},
		},
	}}
	agent := &known{Model: policy.NewModel("node")}
	agent.become(cluster)
	agent.Apply(policy.Synced())
	byRule := func(f *flows.Flow) {
		f.Reason, f.Policies = flows.ByRule, []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Admin", Name: "fence", Rule: new(1), Staged: true}}
	}
	for _, test := range []struct {
		name    string
		verdict flows.Verdict
		port    uint16
		flow    func(*flows.Flow)
		want    string
	}{
		{"by no rule", flows.WouldDeny, 81, nil, "ClusterNetworkPolicy fence spec.ingress[0].protocols[0].tcp: port 81 is not in 90"},
		{"by a rule", flows.WouldDeny, 91, byRule, "ClusterNetworkPolicy fence spec.ingress[0].protocols[0].tcp: port 91 is not in 90"},
		{"denied as they are not in force", flows.Denied, 81, nil, ""},
		{"denied by a rule that is not in force", flows.Denied, 91, byRule, ""},
	} {
		f := toServer(test.port)
		if f.Verdict = test.verdict; test.flow != nil {
			test.flow(f)
		}
		if got := observer.NewNearest(agent, agent, nil).Of(f); got != test.want {
			t.Errorf("%s: %q instead of %q", test.name, got, test.want)
		}
	}
}

// TestNearestOfLongPolicies: what a flow has of a long text is bounded.
func TestNearestOfLongPolicies(t *testing.T) {
	agent := &known{Model: policy.NewModel("node")}
	agent.become(shop(func(np *networkingv1.NetworkPolicy) {
		for port := range int32(1000) {
			np.Spec.Ingress[0].Ports = append(np.Spec.Ingress[0].Ports, networkingv1.NetworkPolicyPort{Port: new(intstr.FromInt32(100 + port))})
		}
	}))
	got := observer.NewNearest(agent, agent, nil).Of(toServer(81))
	if len(got) > 300 || !strings.HasPrefix(got, "NetworkPolicy shop/server spec.ingress[0].ports: port 81 is not in 80, 100, 101") || !strings.HasSuffix(got, "…") {
		t.Errorf("%d octets: %s", len(got), got)
	}
}

// TestNearestOfUnreadPods: nobody can tell what policies say of a pod whose labels were not kept.
func TestNearestOfUnreadPods(t *testing.T) {
	agent := &known{Model: policy.NewModel("node")}
	agent.become(shop(nil))
	client, _ := policy.PodOf(agent.Pods[0])
	agent.Apply(policy.SetPod(client.Unkept()))
	if got := observer.NewNearest(agent, agent, nil).Of(toServer(81)); got != "" {
		t.Error(got)
	}
}

// counting counts how often a policy was asked for, which is once for each near miss that is not remembered.
type counting struct {
	*known
	asked int
}

func (c *counting) NetworkPolicy(key policy.Key) *networkingv1.NetworkPolicy {
	c.asked++
	return c.known.NetworkPolicy(key)
}

// TestNearestRemembers: what was looked for once is not looked for again, until something has changed that
// policies say.
func TestNearestRemembers(t *testing.T) {
	agent := &counting{known: &known{Model: policy.NewModel("node")}}
	agent.become(shop(nil))
	nearest := observer.NewNearest(agent, agent, nil)
	want := func(asked int, text string) {
		t.Helper()
		if got := nearest.Of(toServer(81)); got != text || agent.asked != asked {
			t.Errorf("%q after %d questions, instead of %q after %d", got, agent.asked, text, asked)
		}
	}
	const port = "NetworkPolicy shop/server spec.ingress[0].ports[0]: port 81 is not in 80"
	want(1, port)
	want(1, port)
	other := agent.Pods[0].DeepCopy()
	other.Name, other.Status.PodIPs = "other", []corev1.PodIP{{IP: "10.0.0.9"}}
	agent.Apply(policy.ChangeOf(other)) // which is at no end
	want(1, port)
	client := agent.Pods[0].DeepCopy()
	client.Labels = map[string]string{"app": "cliend"}
	agent.Apply(policy.ChangeOf(client))
	want(2, "")
	want(2, "")
	agent.Policies = shop(func(np *networkingv1.NetworkPolicy) { np.Spec.Ingress[0].Ports[0].Port = new(intstr.FromInt32(81)) }).Policies
	agent.Apply(policy.ChangeOf(agent.Policies[0]))
	want(3, "NetworkPolicy shop/server spec.ingress[0].from[0].podSelector.matchLabels[app]: label app=client: the pod has app=cliend")
}
