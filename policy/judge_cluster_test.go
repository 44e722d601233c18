package policy_test

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/policy"
)

// judgedHosts are who packets are from and to. Those of the first line are pods.
var judgedHosts = map[string]string{
	"web": "10.244.1.2", "api": "10.244.1.3", "pg": "10.244.1.4", "far": "10.244.2.2", "web6": "fd00:244:0:1::2", "pg6": "fd00:244:0:1::4", "host": "192.0.2.1",
	"node": "192.0.2.1", "node-2": "192.0.2.2", "node-2x": "198.51.100.2", "world": "203.0.113.7",
}

// judgedCluster are two nodes, two namespaces and a few pods, and what the lines say besides:
//
//	cnp NAME SPEC
//	policy NAMESPACE/NAME SPEC
//
// A line that begins with neither goes on with the one before.
func judgedCluster(t *testing.T, lines string) policy.Snapshot {
	t.Helper()
	pod := func(namespace, name, node string, ips []string, ports ...corev1.ContainerPort) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Ports: ports}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning},
		}
		for _, ip := range ips {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		return p
	}
	port := func(name string, number int32, protocol corev1.Protocol) corev1.ContainerPort {
		return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: protocol}
	}
	node := func(name, zone, cidr string, addresses ...corev1.NodeAddress) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": zone}},
			Spec:       corev1.NodeSpec{PodCIDR: cidr}, Status: corev1.NodeStatus{Addresses: addresses},
		}
	}
	namespace := func(name, team string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
	}
	host := pod("shop", "host", "node-1", []string{"192.0.2.1"}, port("http", 80, "TCP"))
	host.Spec.HostNetwork = true
	s := policy.Snapshot{
		Node: "node-1",
		Nodes: []*corev1.Node{
			node("node-1", "a", "10.244.1.0/24", corev1.NodeAddress{Type: "InternalIP", Address: "192.0.2.1"}),
			node("node-2", "b", "10.244.2.0/24", corev1.NodeAddress{Type: "InternalIP", Address: "192.0.2.2"}, corev1.NodeAddress{Type: "Hostname", Address: "node-2"},
				corev1.NodeAddress{Type: "ExternalIP", Address: "198.51.100.2"}, corev1.NodeAddress{Type: "InternalIP", Address: "169.254.1.1"}),
		},
		Namespaces: []*corev1.Namespace{namespace("shop", "store"), namespace("db", "data")},
		Pods: []*corev1.Pod{
			pod("shop", "web", "node-1", []string{"10.244.1.2", "fd00:244:0:1::2"}, port("http", 80, "TCP"), port("dns", 53, "UDP"), port("dns", 53, "TCP")),
			pod("shop", "api", "node-1", []string{"10.244.1.3"}, port("http", 8080, "")),
			pod("db", "pg", "node-1", []string{"10.244.1.4", "fd00:244:0:1::4"}, port("pg", 5432, "TCP"), port("sig", 99, "SCTP")),
			pod("db", "far", "node-2", []string{"10.244.2.2"}, port("http", 80, "TCP")),
			host,
		},
	}
	for _, item := range items(lines) {
		kind, rest, _ := strings.Cut(item, " ")
		name, spec, _ := strings.Cut(rest, " ")
		var err error
		switch kind {
		case "cnp":
			cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
			err = yaml.UnmarshalStrict([]byte(spec), &cnp.Spec)
			s.ClusterPolicies = append(s.ClusterPolicies, cnp)
		default:
			np := &networkingv1.NetworkPolicy{}
			np.Namespace, np.Name, _ = strings.Cut(name, "/")
			err = yaml.UnmarshalStrict([]byte(spec), &np.Spec)
			s.Policies = append(s.Policies, np)
		}
		if err != nil {
			t.Fatalf("%s: %v", item, err)
		}
	}
	return s
}

// items are the lines of a cluster, each with those that it goes on in.
func items(lines string) (items []string) {
	for _, line := range strings.Split(lines, "\n") {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "cnp ") || strings.HasPrefix(line, "policy "):
			items = append(items, line)
		case line != "":
			items[len(items)-1] += " " + line
		}
	}
	return items
}

// judges checks what Judge says, by lines of the form
//
//	allow|deny FROM -> TO PROTOCOL PORT [| part of the explanation]
func judges(t *testing.T, s policy.Snapshot, lines string) {
	t.Helper()
	for _, line := range strings.Split(lines, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		expected, because, _ := strings.Cut(line, " | ")
		words := strings.Fields(expected)
		if len(words) != 6 || words[2] != "->" {
			t.Fatalf("what is %q?", line)
		}
		p := policy.Packet{Src: judgedAddr(words[1]), Dst: judgedAddr(words[3]), HopLimit: 64}
		p.Hairpin = p.Src == p.Dst
		p.Protocol = map[string]policy.Protocol{"tcp": policy.TCP, "udp": policy.UDP, "sctp": policy.SCTP, "icmp": policy.ICMP, "proto": policy.Protocol(47)}[words[4]]
		number, err := strconv.ParseUint(words[5], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		if p.DstPort = uint16(number); p.Protocol == policy.ICMP {
			p.DstPort, p.ICMPType = 0, uint8(number)
		}
		v := policy.Judge(s, p, policy.JudgeOptions{})
		if v.Allowed() != (words[0] == "allow") || !strings.Contains(v.String(), strings.TrimSpace(because)) {
			t.Errorf("want: %s\nhave: %s", line, v)
		}
	}
}

func judgedAddr(word string) netip.Addr {
	if text, is := judgedHosts[word]; is {
		word = text
	}
	return netip.MustParseAddr(word)
}

// judgedCase is a cluster with what is to be said of it.
type judgedCase struct {
	name string
	// cluster is what judgedCluster has besides, and change what is different in it.
	cluster string
	change  func(*policy.Snapshot)
	want    string
}

func judgeAll(t *testing.T, cases []judgedCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := judgedCluster(t, c.cluster)
			if c.change != nil {
				c.change(&s)
			}
			judges(t, s, c.want)
		})
	}
}

func TestJudgeTiers(t *testing.T) {
	const closed = `policy shop/closed {podSelector: {}, policyTypes: [Ingress, Egress]}` + "\n"
	const open = `policy shop/open {podSelector: {}, policyTypes: [Egress], egress: [{}]}` + "\n"
	judgeAll(t, []judgedCase{
		{name: "no policy", want: `allow web -> pg tcp 80 | egress: not isolated;`},
		{name: "Admin denies before a NetworkPolicy allows", cluster: open + `
			cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]}`, want: `
			deny  web -> pg tcp 80 | egress: denied by ClusterNetworkPolicy a egress[0].to[0];
			allow web -> world tcp 80 | egress: allowed by shop/open egress[0];`},
		{name: "Admin accepts before a NetworkPolicy denies", cluster: closed + `
			cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [203.0.113.0/24, 10.244.1.3/32]}]}]}`, want: `
			allow web -> world tcp 80 | egress: allowed by ClusterNetworkPolicy a egress[0].to[0]; ingress: no pod
			deny  web -> pg tcp 80 | egress: shop/web is isolated by shop/closed
			deny  web -> api tcp 80 | ingress: shop/api is isolated by shop/closed`},
		{name: "Admin passes to a NetworkPolicy", cluster: closed + `
			cnp a {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Pass, to: [{networks: [203.0.113.7/32]}]}]}
			cnp b {tier: Admin, priority: 2, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [0.0.0.0/0]}]}]}`, want: `
			deny  web -> world tcp 80 | egress: shop/web is isolated by shop/closed
			allow pg -> world tcp 80 | egress: not isolated, and no ClusterNetworkPolicy decides
			allow web -> pg tcp 80 | egress: allowed by ClusterNetworkPolicy b egress[0].to[0]`},
		{name: "a NetworkPolicy decides before Baseline", cluster: open + closed + `
			cnp b {tier: Baseline, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}],
				ingress: [{action: Accept, from: [{namespaces: {}}]}]}`, want: `
			allow web -> pg tcp 80 | egress: allowed by shop/open egress[0];
			deny  pg -> world tcp 80 | egress: denied by ClusterNetworkPolicy b egress[0].to[0];
			deny  pg -> web tcp 80 | ingress: shop/web is isolated by shop/closed`},
		{name: "a NetworkPolicy of one direction leaves the other to Baseline", cluster: open + `
			cnp b {tier: Baseline, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`, want: `
			deny  web -> api tcp 80 | ingress: denied by ClusterNetworkPolicy b ingress[0].from[0]
			allow world -> api tcp 80 | ingress: not isolated, and no ClusterNetworkPolicy decides`},
		{name: "Baseline passes", cluster: `
			cnp a {tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Pass, to: [{networks: [203.0.113.7/32]}]}]}
			cnp b {tier: Baseline, priority: 2, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`, want: `
			allow web -> world tcp 80
			deny  web -> pg tcp 80 | denied by ClusterNetworkPolicy b`},
		{name: "priority, then name, then place", cluster: `
			cnp c {tier: Admin, priority: 5, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}]}]}
			cnp b {tier: Admin, priority: 5, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [203.0.113.7/32]}]}]}
			cnp z {tier: Admin, priority: 0, subject: {namespaces: {}}, egress: [
				{action: Deny, to: [{networks: [10.244.1.4/32]}]}, {action: Accept, to: [{networks: [10.244.0.0/16]}]}]}
			cnp d {tier: Admin, priority: 6, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`, want: `
			allow web -> world tcp 80 | by ClusterNetworkPolicy b
			deny  web -> 203.0.113.8 tcp 80 | by ClusterNetworkPolicy c
			deny  web -> pg tcp 80 | by ClusterNetworkPolicy z egress[0]
			allow web -> api tcp 80 | by ClusterNetworkPolicy z egress[1]
			deny  web -> node tcp 80 | by ClusterNetworkPolicy d`},
		{name: "Pass skips its own policy too", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Pass, to: [{networks: [203.0.113.0/24]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`, want: `
			allow web -> world tcp 80
			deny  web -> pg tcp 80`},
		{name: "Accept is of one direction", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Accept, to: [{namespaces: {}}]}], ingress: [{action: Deny, from: [{namespaces: {}}]}]}`, want: `
			deny web -> pg tcp 80 | egress: allowed by ClusterNetworkPolicy a egress[0].to[0]; ingress: denied by ClusterNetworkPolicy a ingress[0].from[0]`},
		{name: "what always passes, and what a Service leads back", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{nodes: {}}]}]}`, want: `
			allow node -> web tcp 80 | a node always reaches its own pods
			deny  web -> web tcp 80 | ingress: denied by ClusterNetworkPolicy a
			deny  web -> node tcp 80 | egress: denied by ClusterNetworkPolicy a`},
	})
}

func TestJudgeSubjectsOfClusterPolicies(t *testing.T) {
	denies := func(subject string) string {
		return `cnp a {tier: Admin, subject: ` + subject + `, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`
	}
	judgeAll(t, []judgedCase{
		{name: "namespaces", cluster: denies(`{namespaces: {matchLabels: {team: store}}}`), want: `
			deny  web -> world tcp 80
			deny  api -> world tcp 80
			allow pg -> world tcp 80`},
		{name: "pods", cluster: denies(`{pods: {namespaceSelector: {matchLabels: {team: store}}, podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [api]}]}}}`), want: `
			deny  web -> world tcp 80
			allow api -> world tcp 80
			allow pg -> world tcp 80`},
		{name: "pods of any namespace", cluster: denies(`{pods: {podSelector: {}}}`), want: `
			deny web -> world tcp 80
			deny pg -> world tcp 80`},
		{name: "pods on the host's network are none", cluster: denies(`{namespaces: {}}`), want: `allow host -> world tcp 80`},
		{name: "pods that have ended are none", cluster: denies(`{namespaces: {}}`), change: func(s *policy.Snapshot) { s.Pods[3].Status.Phase = "Failed" },
			want: `deny far -> world tcp 80 | egress: an address of the node's containers or pod range`},
		{name: "none", cluster: denies(`{}`), want: `allow web -> world tcp 80`},
		{name: "both", cluster: denies(`{namespaces: {}, pods: {podSelector: {}}}`), want: `allow web -> world tcp 80`},
		{name: "a selector that is not valid", cluster: denies(`{namespaces: {matchExpressions: [{key: team, operator: NotIn}]}}`), want: `allow web -> world tcp 80`},
		{name: "a selector of pods that is not valid", cluster: denies(`{pods: {podSelector: {matchExpressions: [{key: "a b", operator: DoesNotExist}]}}}`), want: `allow web -> world tcp 80`},
		{name: "without rules of the direction", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`, want: `allow web -> world tcp 80 | egress: not isolated;`},
	})
}

func TestJudgePeersOfClusterPolicies(t *testing.T) {
	to := func(peers string) string {
		return `cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Deny, to: ` + peers + `}]}`
	}
	from := func(peers string) string {
		return `cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: store}}}, ingress: [{action: Deny, from: ` + peers + `}]}`
	}
	judgeAll(t, []judgedCase{
		{name: "namespaces", cluster: to(`[{namespaces: {matchLabels: {team: data}}}]`), want: `
			deny  web -> pg tcp 80
			deny  web -> far udp 1
			allow web -> api tcp 80
			allow web -> world tcp 80`},
		{name: "all namespaces", cluster: from(`[{namespaces: {}}]`), want: `
			deny  pg -> web tcp 80
			deny  api -> web tcp 80
			allow world -> web tcp 80
			allow node-2 -> web tcp 80
			deny  10.244.2.9 -> web tcp 80 | ingress: not isolated, and no ClusterNetworkPolicy decides`},
		{name: "pods", cluster: from(`[{namespaces: {matchLabels: {team: none}}}, {pods: {namespaceSelector: {matchLabels: {team: data}}, podSelector: {matchLabels: {app: far}}}}]`), want: `
			deny  far -> web tcp 80 | ingress[0].from[1]
			allow pg -> web tcp 80`},
		{name: "pods on the host's network are none", cluster: to(`[{pods: {podSelector: {}}}]`), want: `
			allow web -> host tcp 80
			deny  web -> pg tcp 80`},
		{name: "networks", cluster: to(`[{networks: [203.0.113.9/24, "fd00:244:0:1::/64", 010.244.002.000/24]}]`), want: `
			deny  web -> world tcp 80
			deny  web -> far tcp 80
			deny  web6 -> pg6 tcp 80
			allow web -> pg tcp 80`},
		{name: "nodes", cluster: to(`[{nodes: {matchLabels: {zone: b}}}]`), want: `
			deny  web -> node-2 tcp 80
			deny  web -> node-2x icmp 8
			allow web -> node tcp 80
			allow web -> 169.254.1.1 tcp 80
			allow web -> far tcp 80`},
		{name: "all nodes", cluster: to(`[{nodes: {}}]`), want: `
			deny web -> node-2 tcp 80
			deny web -> node tcp 80`},
		{name: "a node that shows a pod's address", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Accept, to: [{nodes: {}}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`,
			change: func(s *policy.Snapshot) {
				s.Nodes[1].Status.Addresses = append(s.Nodes[1].Status.Addresses, corev1.NodeAddress{Type: "InternalIP", Address: "10.244.1.4"})
			}, want: `
			allow web -> node-2 tcp 80
			deny  web -> pg tcp 80 | egress[1]`},
	})
}

func TestJudgeProtocolsOfClusterPolicies(t *testing.T) {
	to := func(protocols string) string {
		return `cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: ` + protocols + `}]}`
	}
	in := func(protocols string) string {
		return `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: ` + protocols + `}]}`
	}
	judgeAll(t, []judgedCase{
		{name: "none", cluster: `cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`, want: `
			deny web -> pg tcp 80
			deny web -> pg icmp 8
			deny web -> pg proto 0`},
		{name: "a number", cluster: to(`[{udp: {destinationPort: {number: 53}}}, {tcp: {destinationPort: {number: 80}}}]`), want: `
			deny  web -> pg tcp 80 | denied by ClusterNetworkPolicy a egress[0].to[0].protocols[1]
			deny  web -> pg udp 53
			allow web -> pg tcp 53
			allow web -> pg sctp 80
			allow web -> pg icmp 8`},
		{name: "a range", cluster: to(`[{sctp: {destinationPort: {range: {start: 80, end: 90}}}}]`), want: `
			allow web -> pg sctp 79
			deny  web -> pg sctp 80
			deny  web -> pg sctp 90
			allow web -> pg sctp 91
			allow web -> pg tcp 80`},
		{name: "a range of one", cluster: to(`[{tcp: {destinationPort: {range: {start: 80, end: 80}}}}]`), want: `
			deny  web -> pg tcp 80
			allow web -> pg tcp 81`},
		{name: "all ports", cluster: to(`[{tcp: {}}]`), want: `
			deny  web -> pg tcp 0
			deny  web -> pg tcp 65535
			allow web -> pg udp 80
			allow web -> pg proto 0`},
		{name: "a name", cluster: to(`[{destinationNamedPort: http}]`), want: `
			allow web -> pg tcp 80
			deny  web -> far tcp 80
			deny  web -> api tcp 8080
			allow web -> api tcp 80
			allow web -> api udp 8080
			allow web -> node tcp 80
			allow web -> world tcp 80`},
		{name: "a name, of the subject", cluster: in(`[{destinationNamedPort: dns}, {destinationNamedPort: sig}]`), want: `
			deny  pg -> web udp 53 | ingress[0].from[0].protocols[0]
			deny  pg -> web tcp 53
			allow pg -> web sctp 53
			allow web -> pg tcp 53
			deny  web -> pg sctp 99
			allow web -> pg tcp 99`},
		{name: "a peer and a protocol", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: data}}}], protocols: [{tcp: {}}]}]}`, want: `
			deny  web -> pg tcp 80
			allow web -> pg udp 80
			allow web -> api tcp 80`},
	})
}

func TestJudgeWhatCannotBeRead(t *testing.T) {
	const rest = `{networks: [203.0.113.7/32]}`
	unreadable := map[string][2]string{ // peers, protocols
		"no field": {`{}`}, "two fields": {`{namespaces: {}, nodes: {}}`}, "two fields, of networks": {`{networks: [0.0.0.0/0], pods: {podSelector: {}}}`},
		"a selector": {`{namespaces: {matchExpressions: [{key: team, operator: In}]}}`}, "a selector of pods": {`{pods: {podSelector: {matchLabels: {app: "a b"}}}}`},
		"a selector of nodes": {`{nodes: {matchExpressions: [{key: zone, operator: Gt, values: ["1"]}]}}`}, "domain names": {`{domainNames: [example.com]}`},
		"one network of two": {`{networks: [10.0.0.0/33, 203.0.113.8/32]}`}, "a network": {`{networks: [everything]}`},
		"no protocol": {rest, `{}`}, "two protocols": {rest, `{tcp: {}, udp: {}}`}, "a name and a protocol": {rest, `{tcp: {}, destinationNamedPort: http}`},
		"no port": {rest, `{tcp: {destinationPort: {}}}`}, "a number and a range": {rest, `{tcp: {destinationPort: {number: 80, range: {start: 1, end: 99}}}}`},
		"a number that is none": {rest, `{tcp: {destinationPort: {number: 65536}}}`}, "a negative one": {rest, `{udp: {destinationPort: {number: -1}}}`},
		"a range backwards": {rest, `{tcp: {destinationPort: {range: {start: 90, end: 80}}}}`}, "a range from 0": {rest, `{tcp: {destinationPort: {range: {start: 0, end: 80}}}}`},
		"a range too far": {rest, `{sctp: {destinationPort: {range: {start: 80, end: 65536}}}}`},
	}
	for name, of := range unreadable {
		protocols := ""
		if of[1] != "" {
			protocols = `, protocols: [` + of[1] + `, {udp: {destinationPort: {number: 9}}}]`
		}
		rule := func(action string) string {
			return `
				cnp a {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [
					{action: Accept, to: [{networks: [10.244.1.4/32]}]}, {action: ` + action + `, to: [` + of[0] + `, ` + rest + `]` + protocols + `}]}
				cnp b {tier: Admin, priority: 2, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`
		}
		judgeAll(t, []judgedCase{
			{name: "Accept of " + name, cluster: rule("Accept"), want: `
				allow web -> pg tcp 80
				allow web -> world udp 9 | by ClusterNetworkPolicy a egress[1].to[`},
			{name: "Accept nothing of " + name, cluster: rule("Accept"), want: `
				deny web -> far tcp 80 | by ClusterNetworkPolicy b
				deny web -> node tcp 80 | by ClusterNetworkPolicy b`},
			{name: "Deny of " + name, cluster: rule("Deny"), want: `
				allow web -> pg tcp 80
				deny  web -> far icmp 8 | egress: denied by ClusterNetworkPolicy a egress[1], as not all of it can be read;`},
			{name: "Pass of " + name, cluster: rule("Pass"), want: `
				allow web -> pg tcp 80
				deny  web -> world tcp 80 | egress: denied by ClusterNetworkPolicy a egress[1], as not all of it can be read;`},
		})
	}
	judgeAll(t, []judgedCase{
		{name: "of two networks the other counts", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [10.0.0.0/33, 203.0.113.0/24]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`, want: `
			allow web -> world tcp 80
			deny  web -> pg tcp 80`},
		{name: "no peers", cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: []}, {action: Deny, from: [{pods: {podSelector: {matchLabels: {app: far}}}}]}], egress: [{action: Deny}]}`, want: `
			allow world -> web tcp 80
			deny  far -> web tcp 80 | ingress: denied by ClusterNetworkPolicy a ingress[1]
			deny  web -> world tcp 80 | denied by ClusterNetworkPolicy a egress[0], as not all`},
		{name: "an unknown action", cluster: `
			cnp a {tier: Baseline, subject: {namespaces: {}}, egress: [{action: Log, to: [{networks: [10.0.0.0/8]}]}]}`, want: `
			deny web -> world tcp 80 | denied by ClusterNetworkPolicy a egress[0], as its action is not known;`},
		{name: "an unknown tier", cluster: `
			cnp a {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [203.0.113.7/32]}]}]}
			cnp b {tier: Middle, priority: 2, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [0.0.0.0/0]}]}, {action: Pass, to: [{namespaces: {}}]}],
				ingress: [{action: Accept, from: [{namespaces: {}}]}]}
			cnp c {tier: Admin, priority: 3, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [0.0.0.0/0]}]}], ingress: [{action: Deny, from: [{namespaces: {}}]}]}`, want: `
			allow web -> world tcp 80
			deny  web -> node tcp 80 | denied by ClusterNetworkPolicy b egress[1], as the policy's tier is not known;
			deny  web -> pg tcp 80 | ingress: denied by ClusterNetworkPolicy c ingress[0].from[0]`},
	})
}

func TestJudgeInDoubt(t *testing.T) {
	// Three ways in which pg's address is in doubt.
	twice := func(s *policy.Snapshot) {
		other := s.Pods[2].DeepCopy()
		other.Namespace, other.Name, other.Labels = "shop", "other", map[string]string{"app": "other"}
		s.Pods = append(s.Pods, other)
	}
	unknown := func(s *policy.Snapshot) { s.Namespaces = s.Namespaces[:1] }
	listed := func(s *policy.Snapshot) {
		s.Nodes[1].Status.Addresses = append(s.Nodes[1].Status.Addresses, corev1.NodeAddress{Type: "Hostname", Address: "10.244.1.4"})
	}
	const store = `subject: {namespaces: {matchLabels: {team: store}}}`
	const closing = `
		cnp z {tier: Admin, priority: 9, ` + store + `, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}` + "\n"
	for name, change := range map[string]func(*policy.Snapshot){"several pods": twice, "a Namespace that is not known": unknown, "a Node that shows it": listed} {
		judgeAll(t, []judgedCase{
			{name: "Deny asks for pods: " + name, change: change, cluster: `
				cnp a {tier: Admin, ` + store + `, egress: [{action: Accept, to: [{networks: [0.0.0.0/0]}]}, {action: Deny, to: [{pods: {podSelector: {matchLabels: {app: none}}}}]}]}`, want: `
				deny  web -> pg tcp 80 | egress: denied by ClusterNetworkPolicy a egress[1].to[0], as nobody can tell who has 10.244.1.4;
				allow web -> world tcp 80`},
			{name: "Pass asks for namespaces: " + name, change: change, cluster: `
				cnp a {tier: Baseline, ` + store + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: none}}}]}]}`, want: `
				deny  pg -> web icmp 8 | ingress: denied by ClusterNetworkPolicy a ingress[0].from[0], as nobody can tell who has 10.244.1.4
				allow world -> web tcp 80`},
			{name: "Deny asks for nodes: " + name, change: change, cluster: `
				cnp a {tier: Admin, ` + store + `, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}, {nodes: {matchLabels: {zone: none}}}]}]}`, want: `
				deny  web -> pg tcp 80 | egress[0].to[1], as nobody
				allow web -> node-2 tcp 80`},
			{name: "Deny asks for a name: " + name, change: change, cluster: `
				cnp a {tier: Admin, ` + store + `, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}], protocols: [{tcp: {}}, {destinationNamedPort: none}]}]}`, want: `
				deny  web -> pg udp 80 | egress[0].protocols[1], as nobody
				allow web -> api tcp 80`},
			{name: "networks do not ask: " + name, change: change, cluster: `
				cnp a {tier: Admin, ` + store + `, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}], protocols: [{tcp: {}}]}]}`, want: `
				allow web -> pg tcp 80`},
			{name: "what cannot be read does not ask: " + name, change: change, cluster: `
				cnp a {tier: Admin, ` + store + `, egress: [{action: Accept, to: [{networks: [10.244.1.4/32]}]}, {action: Deny, to: [{namespaces: {}}, {}]}]}`, want: `
				allow web -> pg tcp 80
				deny  web -> api tcp 80 | egress[1], as not all of it can be read`},
			{name: "Accept does not ask, and asks for all: " + name, change: change, cluster: closing + `
				cnp a {tier: Admin, priority: 1, ` + store + `, egress: [{action: Accept, to: [{namespaces: {matchLabels: {team: none}}}]}, {action: Accept, to: [{networks: [10.244.1.4/32]}]}]}`, want: `
				allow web -> pg tcp 80 | by ClusterNetworkPolicy a egress[1]`},
			{name: "a policy before decides: " + name, change: change, cluster: `
				cnp a {tier: Admin, priority: 1, ` + store + `, ingress: [{action: Accept, from: [{namespaces: {}}]}]}
				cnp b {tier: Admin, priority: 2, subject: {pods: {podSelector: {matchLabels: {app: web}}}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}`, want: `
				` + map[bool]string{true: "deny ", false: "allow "}[name == "a Namespace that is not known"] + `pg -> web tcp 80
				allow api -> web tcp 80 | by ClusterNetworkPolicy a`},
		})
	}
	judgeAll(t, []judgedCase{
		{name: "Deny asks for the subject's names", change: listed, cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {matchLabels: {team: none}}}], protocols: [{destinationNamedPort: none}]}]}`, want: `
			deny  web -> pg tcp 80 | ingress: denied by ClusterNetworkPolicy a ingress[1].protocols[0], as nobody can tell who has 10.244.1.4
			deny  pg -> web tcp 80 | ingress: denied by ClusterNetworkPolicy a ingress[1].from[0], as nobody can tell who has 10.244.1.4
			allow web -> api tcp 80`},
		{name: "Deny by number does not ask for the subject", change: listed, cluster: `
			cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: none}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`, want: `
			allow web -> pg tcp 80`},
		{name: "Accept of one of the pods", change: twice, cluster: `
			cnp a {tier: Admin, priority: 1, ` + store + `, egress: [{action: Accept, to: [{pods: {podSelector: {matchLabels: {app: pg}}}}]}]}` + closing, want: `
			deny web -> pg tcp 80 | egress: denied by ClusterNetworkPolicy z`},
		{name: "Accept by a name that all have", change: twice, cluster: `
			cnp a {tier: Admin, priority: 1, ` + store + `, egress: [{action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: pg}]}]}` + closing, want: `
			allow web -> pg tcp 5432 | egress: allowed by ClusterNetworkPolicy a`},
		{name: "Accept by a name that one has", cluster: `
			cnp a {tier: Admin, priority: 1, ` + store + `, egress: [{action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: pg}]}]}` + closing,
			change: func(s *policy.Snapshot) { twice(s); s.Pods[5].Spec.Containers = nil }, want: `
			deny web -> pg tcp 5432 | egress: denied by ClusterNetworkPolicy z`},
		{name: "a subject that is one of several: each must let it pass", change: twice, cluster: `
			cnp a {tier: Admin, ` + store + `, egress: [{action: Deny, to: [{networks: [203.0.113.7/32]}]}]}`, want: `
			deny  pg -> world tcp 80 | egress: denied by ClusterNetworkPolicy a egress[0].to[0]
			allow pg -> 203.0.113.8 tcp 80`},
	})
}

func TestJudgeUnknownNamespaces(t *testing.T) {
	unknown := func(s *policy.Snapshot) { s.Namespaces = s.Namespaces[:1] }
	judgeAll(t, []judgedCase{
		{name: "any policy of namespaces might select it", change: unknown, cluster: `
			policy db/open {podSelector: {}, policyTypes: [Egress], egress: [{}]}
			cnp a {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [0.0.0.0/0]}]}], ingress: [{action: Accept, from: [{namespaces: {}}]}]}
			cnp b {tier: Baseline, priority: 2, subject: {namespaces: {matchLabels: {team: none}}}, egress: [{action: Accept, to: [{namespaces: {}}]}, {action: Pass, to: [{networks: [192.0.2.7/32]}]}]}`, want: `
			deny  pg -> world tcp 80 | egress: denied by ClusterNetworkPolicy b egress[1], as the pod's Namespace is not known;
			allow api -> pg tcp 80 | ingress: not isolated
			allow web -> world tcp 80`},
		{name: "a policy of pods might, if it means their labels", change: unknown, cluster: `
			cnp a {tier: Baseline, subject: {pods: {podSelector: {matchLabels: {app: pg}}}}, ingress: [{action: Log, from: [{namespaces: {}}]}]}`, want: `
			deny  world -> pg tcp 80 | ingress: denied by ClusterNetworkPolicy a ingress[0], as the pod's Namespace is not known
			allow world -> far tcp 80
			allow pg -> world tcp 80`},
		{name: "a policy whose subject cannot be read does not", change: unknown, cluster: `
			cnp a {tier: Admin, subject: {}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}
			cnp b {tier: Admin, subject: {pods: {namespaceSelector: {matchLabels: {team: "a b"}}, podSelector: {}}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`, want: `
			allow pg -> world tcp 80`},
		{name: "of an unknown tier", change: unknown, cluster: `
			cnp a {tier: Middle, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [0.0.0.0/0]}]}], ingress: [{action: Deny, from: [{namespaces: {}}]}]}`, want: `
			allow pg -> world tcp 80
			deny  world -> pg tcp 80`},
	})
}

// TestFenced: a direction is fenced if policies decide in it, though they say nothing of the packet.
func TestFenced(t *testing.T) {
	fenced := map[string][2]bool{
		``: {},
		`policy shop/p {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`:                                                                   {true, false},
		`cnp a {tier: Baseline, subject: {namespaces: {}}, egress: [{action: Pass, to: [{networks: [192.0.2.0/24]}]}]}`:                            {false, true},
		`cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{}]}]}`:                                                  {true, false},
		`cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: data}}}, egress: [{action: Accept, to: [{namespaces: {}}]}]}`:              {},
		`cnp a {tier: Middle, subject: {namespaces: {}}, egress: [{action: Accept, to: [{namespaces: {}}]}], ingress: [{action: Deny, from: []}]}`: {true, false},
	}
	for cluster, want := range fenced {
		s := judgedCluster(t, cluster)
		in := policy.Judge(s, policy.Packet{Src: judgedAddr("world"), Dst: judgedAddr("web"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}, policy.JudgeOptions{}).Ingress
		out := policy.Judge(s, policy.Packet{Src: judgedAddr("web"), Dst: judgedAddr("world"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}, policy.JudgeOptions{}).Egress
		if in.Fenced() != want[0] || out.Fenced() != want[1] {
			t.Errorf("%s: fenced are ingress %t, egress %t, want %v", cluster, in.Fenced(), out.Fenced(), want)
		}
	}
}
