package bench

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/scale"
)

// rules is a ruleset that the data plane is measured under.
type rules struct {
	name string
	// open: it lets everything through.
	open bool
	load func(*testing.B, *lab.Node)
	// its table, by family and name
	table string
}

// allRules are those compared with none. All are for a node of 252 pods, of which
// two are measured.
func allRules() []rules {
	const podfence = "inet " + nft.TableName
	all := []rules{
		{name: "rules=empty", open: true, load: func(b *testing.B, n *lab.Node) { loadNFT(b, n, emptyRules("again")) }, table: "inet again"},
		{name: "rules=jump-per-pod", load: func(b *testing.B, n *lab.Node) { loadNFT(b, n, jumpPerPod(manyPods(b, 100))) }, table: "ip jump-per-pod"},
		{name: "rules=podfence/policies-of-one-pod=100", load: func(b *testing.B, n *lab.Node) { commit(b, n, onePod(b, 100)) }, table: podfence},
	}
	for _, policies := range []int{10, 100, 1000} {
		all = append(all, rules{
			name:  fmt.Sprintf("rules=podfence/policies=%d", policies),
			load:  func(b *testing.B, n *lab.Node) { commit(b, n, manyPods(b, policies)) },
			table: podfence,
		})
	}
	all = append(all, rules{
		name: "rules=podfence/cluster-policies=20x25",
		load: func(b *testing.B, n *lab.Node) {
			commit(b, n, manyPodsUnder(b, 100, clusterPolicies(20)))
		},
		table: podfence,
	}, rules{
		name: "rules=podfence/source-check",
		load: func(b *testing.B, n *lab.Node) {
			commit(b, n, manyPods(b, 100, func(o *ruleset.Options) { o.SourceCheck = true }))
		},
		table: podfence,
	}, rules{
		name: "rules=podfence/max-connections",
		load: func(b *testing.B, n *lab.Node) {
			commit(b, n, manyPods(b, 100, func(o *ruleset.Options) { o.MaxConnections = 1 << 20 }))
		},
		table: podfence,
	})
	return all
}

// emptyRules judge nothing.
func emptyRules(name string) string {
	return fmt.Sprintf(`table inet %s {
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
	}
}`, name)
}

// tracking has connection tracking on all the time, as kube-proxy has it on every
// node, in a hook that forwarded packets don't pass. Without a rule that asks for it
// a network namespace does not track, and tracking would count as rules' cost.
const tracking = `table inet tracking {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state established accept
	}
}`

// load puts in place the rules and, asleep, the empty ones. What it returns wakes
// the ones and sends the others to sleep, without a packet lost between.
func (w *wire) load(b *testing.B, r rules) (rules, none func()) {
	const empty = "inet empty"
	n := w.nodes[0]
	loadNFT(b, n, "flush ruleset\n"+tracking+"\n"+emptyRules("empty"))
	r.load(b, n)
	return w.change(b, []string{r.table}, []string{empty}), w.change(b, []string{empty}, []string{r.table})
}

// change returns what wakes tables, and sends others to sleep, on each of the nodes.
func (w *wire) change(b *testing.B, awake, asleep []string) func() {
	var text strings.Builder
	for _, table := range awake {
		fmt.Fprintf(&text, "table %s { }\n", table)
	}
	for _, table := range asleep {
		fmt.Fprintf(&text, "table %s { flags dormant; }\n", table)
	}
	return func() {
		for _, n := range w.nodes {
			loadNFT(b, n, text.String())
		}
	}
}

// loadNFT loads rules into the node.
func loadNFT(b testing.TB, n *lab.Node, text string) {
	b.Helper()
	must(b, loadRules(n, text))
}

func loadRules(n *lab.Node, text string) error {
	return n.Do(func() error {
		// The child is forked from this thread, so it is in its namespace.
		command := exec.Command("nft", "-f", "-")
		command.Stdin = strings.NewReader(text)
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("nft, of the package nftables: %w: %s", err, out)
		}
		return nil
	})
}

// commit puts a table into the node's kernel as the agent does.
func commit(b *testing.B, n *lab.Node, table *ruleset.Table) {
	b.Helper()
	conn, err := kernel.Open(kernel.Options{NetNS: n.NetNS()})
	must(b, err)
	must(b, conn.Apply(table.Replacement()))
	must(b, conn.Close())
}

// manyPods is a node with so many policies, of ten kinds in each namespace. Of
// those kinds, default deny, DNS and the world select the client for egress, and
// default deny, another team and the whole namespace the server for ingress.
func manyPods(b *testing.B, policies int, options ...func(*ruleset.Options)) *ruleset.Table {
	return manyPodsUnder(b, policies, nil, options...)
}

// manyPodsUnder is such a node whose pods some ClusterNetworkPolicies are about as well.
func manyPodsUnder(b *testing.B, policies int, above []*clusterv1beta1.ClusterNetworkPolicy, options ...func(*ruleset.Options)) *ruleset.Table {
	size := scale.Size{Pods: 250, Local: 250, Namespaces: policies / 10, Policies: policies}
	var all []*networkingv1.NetworkPolicy
	for n := range size.Policies {
		all = append(all, size.Policy(n))
	}
	return tableOf(b, size, append(all, measuredPolicy("server-from-client")), above, options...)
}

// clusterPolicies are about all pods, with 25 rules for each direction. Each rule denies a namespace of
// its own, half of them some ports only, and none the measured pods: a new connection passes them all.
func clusterPolicies(n int) (all []*clusterv1beta1.ClusterNetworkPolicy) {
	for i := range n {
		cnp := &clusterv1beta1.ClusterNetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("deny-%03d", i)},
			Spec:       clusterv1beta1.ClusterNetworkPolicySpec{Tier: clusterv1beta1.AdminTier, Priority: int32(i), Subject: clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}},
		}
		for rule := range 25 {
			namespace := &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: fmt.Sprintf("ns-%04d", 1+i*25+rule)}}
			var protocols []clusterv1beta1.ClusterNetworkPolicyProtocol
			if rule%2 == 0 {
				protocols = []clusterv1beta1.ClusterNetworkPolicyProtocol{{TCP: &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: &clusterv1beta1.Port{Number: int32(8000 + rule)}}}}
			}
			cnp.Spec.Ingress = append(cnp.Spec.Ingress, clusterv1beta1.ClusterNetworkPolicyIngressRule{
				Action: clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, Protocols: protocols,
				From: []clusterv1beta1.ClusterNetworkPolicyIngressPeer{{Namespaces: namespace}},
			})
			cnp.Spec.Egress = append(cnp.Spec.Egress, clusterv1beta1.ClusterNetworkPolicyEgressRule{
				Action: clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, Protocols: protocols,
				To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Namespaces: namespace}},
			})
		}
		all = append(all, cnp)
	}
	return all
}

// onePod is a node whose policies all select the server. Each names the client,
// but only the last the ports: a new connection passes them all, and looks its
// source and its port up for each.
func onePod(b *testing.B, policies int) *ruleset.Table {
	var all []*networkingv1.NetworkPolicy
	for n := range policies {
		np := measuredPolicy(fmt.Sprintf("server-from-client-%03d", n))
		np.Spec.PodSelector = *role("server")
		np.Spec.PolicyTypes, np.Spec.Egress = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, nil
		if n < policies-1 {
			port := intstr.FromInt32(int32(20_000 + n))
			np.Spec.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{{Port: &port}}
		}
		all = append(all, np)
	}
	return tableOf(b, scale.Size{Pods: 250, Local: 250, Namespaces: 1}, all, nil)
}

// tableOf is the table of the node whose pods are size's and the two measured.
func tableOf(b *testing.B, size scale.Size, policies []*networkingv1.NetworkPolicy, above []*clusterv1beta1.ClusterNetworkPolicy, options ...func(*ruleset.Options)) *ruleset.Table {
	b.Helper()
	o := ruleset.Options{RevokedMark: 1 << 29}
	for _, set := range options {
		set(&o)
	}
	return ruleset.Build(modelOf(b, size, policies, above).Intent(), o)
}

// modelOf is the model of that node.
func modelOf(b *testing.B, size scale.Size, policies []*networkingv1.NetworkPolicy, above []*clusterv1beta1.ClusterNetworkPolicy) *policy.Model {
	b.Helper()
	m := policy.NewModel(scale.Node)
	for _, node := range size.Nodes() {
		m.Apply(policy.SetNode(policy.NodeOf(node)))
	}
	for n := range size.Namespaces {
		m.Apply(policy.SetNamespace(policy.NamespaceOf(scale.Namespace(n))))
	}
	for _, np := range policies {
		parsed, problems := policy.Parse(np)
		if len(problems) > 0 {
			b.Fatal(problems)
		}
		m.Apply(policy.SetPolicy(parsed))
	}
	for _, cnp := range above {
		parsed, problems := policy.ParseCluster(cnp)
		if len(problems) > 0 {
			b.Fatal(problems)
		}
		m.Apply(policy.SetPolicy(parsed))
	}
	pods := []*corev1.Pod{measuredPod("client", "app-7", clientAddr), measuredPod("server", "app-5", serverAddr)}
	for n := range size.Pods {
		pods = append(pods, size.Pod(n))
	}
	for _, object := range pods {
		pod, ok := policy.PodOf(object)
		if !ok {
			b.Fatalf("pod %s/%s is not on the pod network", object.Namespace, object.Name)
		}
		m.Apply(policy.SetPod(pod))
	}
	return m
}

// measuredNamespace is that of the two pods and their policy.
var measuredNamespace = scale.Namespace(0).Name

func measuredPod(name, app string, addr netip.Addr) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: measuredNamespace, Name: name, Labels: map[string]string{"app": app, "role": name}},
		Spec:       corev1.PodSpec{NodeName: scale.Node},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr.String()},
	}
}

func role(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"role": name}}
}

// measuredPolicy allows what is measured, at both pods, and nothing else. By its
// name it comes after those of the load.
func measuredPolicy(name string) *networkingv1.NetworkPolicy {
	tcp, udp, first, last := corev1.ProtocolTCP, corev1.ProtocolUDP, intstr.FromInt32(firstPort), int32(lastPort)
	ports := []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &first, EndPort: &last}, {Protocol: &udp, Port: &first}}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: measuredNamespace, Name: name},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "role", Operator: metav1.LabelSelectorOpIn, Values: []string{"client", "server"}},
			}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: ports, From: []networkingv1.NetworkPolicyPeer{{PodSelector: role("client")}}}},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{Ports: ports, To: []networkingv1.NetworkPolicyPeer{{PodSelector: role("server")}}}},
		},
	}
}

// jumpPerPod is podfence's table, arranged as kube-router does it
// (syncPodFirewallChains in its pkg/controllers/netpol/pod.go): each packet of
// each flow goes down a list with two rules for every pod, and meets "established"
// only in the chain of the first pod that is its own. The measured pods are in the
// middle of the list: the average. Policies and their sets are the same; what a
// policy lets through is marked, since accept would spare it the other pod's
// chain.
//
// It is gentler than the original, whose list is twice as long, with rules of its
// own for bridged packets, and which logs what it denies. Like the original's it
// is a table for IPv4 only, where rules need not ask for the family.
func jumpPerPod(table *ruleset.Table) string {
	const allow, allowed, forget = "meta mark set meta mark or 0x10000 return", "meta mark and 0x10000 == 0 counter drop", "meta mark set meta mark and 0xfffeffff"
	var list, pods strings.Builder
	rest := &nft.Table{Sets: maps.Clone(table.Sets), Chains: maps.Clone(table.Chains)}
	for _, side := range []struct{ pods, field string }{{"ingress-pods-4", "ip daddr"}, {"egress-pods-4", "ip saddr"}} {
		verdicts := table.Sets[side.pods].Verdicts
		for _, addr := range measuredInTheMiddle(slices.Collect(maps.Keys(verdicts))) {
			chain := table.Chains[verdicts[nft.AddrElement(addr)].Chain]
			if chain == nil {
				continue // not isolated
			}
			fmt.Fprintf(&list, "%s %s jump %s\n", side.field, addr, chain.Name)
			fmt.Fprintf(&pods, "chain %s {\nct state established,related accept\n", chain.Name)
			for _, rule := range chain.Rules[:len(chain.Rules)-1] {
				fmt.Fprintln(&pods, rule)
			}
			fmt.Fprintf(&pods, "%s\n%s\n}\n", allowed, forget)
			delete(rest.Chains, chain.Name)
		}
	}
	maps.DeleteFunc(rest.Sets, func(_ string, s *nft.Set) bool { return s.IsMap() })
	maps.DeleteFunc(rest.Chains, func(_ string, c *nft.Chain) bool { return c.Hook != nil })
	var policies strings.Builder
	for line := range strings.Lines(rest.Text()) {
		if !strings.Contains(line, "ip6 ") {
			policies.WriteString(line)
		}
	}
	const name = "ip jump-per-pod"
	return strings.NewReplacer("inet "+nft.TableName, name, "counter accept", "counter "+allow).Replace(policies.String()) +
		fmt.Sprintf("table %s {\n%schain forward {\ntype filter hook forward priority filter; policy accept;\n%s}\n}\n", name, pods.String(), list.String())
}

// measuredInTheMiddle are the addresses in order, but for those two.
func measuredInTheMiddle(keys []nft.Element) []netip.Addr {
	var addrs []netip.Addr
	for _, key := range keys {
		if addr := netip.AddrFrom4([4]byte(key.Addr[:4])); addr != clientAddr && addr != serverAddr {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int { return cmp.Compare(a.As4()[3], b.As4()[3]) })
	return slices.Insert(addrs, len(addrs)/2, clientAddr, serverAddr)
}
