package lint_test

import (
	"fmt"
	"math/rand"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

const seeds = 60

// drawn is a random cluster, as no node sees it in particular.
func drawn(seed int64) *explain.Cluster {
	r := rand.New(rand.NewSource(seed))
	c := &explain.Cluster{Snapshot: random.Cluster(r, r.Intn(14), r.Intn(10)), Running: true}
	c.Node = ""
	return c
}

// TestSameWhateverTheOrder: the same objects in another order give the same findings, and linting does
// not change them.
func TestSameWhateverTheOrder(t *testing.T) {
	found := 0
	for seed := range int64(5 * seeds) {
		c := drawn(seed)
		first := lint.Lint(c)
		found += len(first)
		r := rand.New(rand.NewSource(seed))
		r.Shuffle(len(c.Pods), func(i, j int) { c.Pods[i], c.Pods[j] = c.Pods[j], c.Pods[i] })
		r.Shuffle(len(c.Namespaces), func(i, j int) { c.Namespaces[i], c.Namespaces[j] = c.Namespaces[j], c.Namespaces[i] })
		r.Shuffle(len(c.Nodes), func(i, j int) { c.Nodes[i], c.Nodes[j] = c.Nodes[j], c.Nodes[i] })
		r.Shuffle(len(c.Policies), func(i, j int) { c.Policies[i], c.Policies[j] = c.Policies[j], c.Policies[i] })
		r.Shuffle(len(c.ClusterPolicies), func(i, j int) {
			c.ClusterPolicies[i], c.ClusterPolicies[j] = c.ClusterPolicies[j], c.ClusterPolicies[i]
		})
		if again := lint.Lint(c); !reflect.DeepEqual(first, again) {
			t.Fatalf("seed %d: found\n%v\nand in another order\n%v", seed, first, again)
		}
		if !reflect.DeepEqual(c.Pods, func() any {
			d := drawn(seed)
			r := rand.New(rand.NewSource(seed))
			r.Shuffle(len(d.Pods), func(i, j int) { d.Pods[i], d.Pods[j] = d.Pods[j], d.Pods[i] })
			return d.Pods
		}()) {
			t.Fatalf("seed %d: linting has changed the pods", seed)
		}
	}
	if found < 100 {
		t.Errorf("only %d findings seen", found)
	}
}

// TestJudgeAgrees: what is found to mean nobody, or never to decide, does so for no packet.
func TestJudgeAgrees(t *testing.T) {
	seen := map[lint.Rule]int{}
	for seed := range int64(seeds / 3) {
		c := drawn(seed)
		for _, f := range lint.Lint(c) {
			seen[f.Rule]++
			var against []string
			switch f.Rule {
			case lint.SelectsNothing:
				against = packets(c.Snapshot, func(j policy.Judgement) bool {
					return slices.Contains(slices.Concat(j.Isolating, j.Selecting), keyOf(f))
				})
			case lint.PeerMatchesNothing, lint.SplitPeer:
				against = packets(alone(t, c.Snapshot, f), func(j policy.Judgement) bool { return len(j.By) > 0 })
			case lint.ShadowedRule:
				direction, rule, _ := placeOf(t, f)
				against = packets(c.Snapshot, func(j policy.Judgement) bool {
					// Where nobody can tell who has an address, a rule denies that the earlier one does not let in.
					return !strings.HasPrefix(j.Reason, "nobody can tell") && slices.ContainsFunc(slices.Concat(j.By, j.DeniedBy), func(r policy.RuleRef) bool {
						return r.Policy == keyOf(f) && r.Direction == direction && r.Rule == rule
					})
				})
			}
			if len(against) > 0 {
				t.Errorf("seed %d: %s, but %s", seed, f, against[0])
			}
		}
	}
	for _, rule := range []lint.Rule{lint.SelectsNothing, lint.PeerMatchesNothing, lint.ShadowedRule} {
		if seen[rule] < 3 {
			t.Errorf("%s was seen %d times", rule, seen[rule])
		}
	}
}

// TestHostile: what no API server would take does not break linting.
func TestHostile(t *testing.T) {
	objects := 0
	for seed := range int64(5 * seeds) {
		c := &explain.Cluster{Running: seed%2 == 0}
		for _, event := range random.Hostile(random.Tape(seed), nil) {
			switch o := event.Object.(type) {
			case *corev1.Namespace:
				c.Namespaces = append(c.Namespaces, o)
			case *corev1.Node:
				c.Nodes = append(c.Nodes, o)
			case *corev1.Pod:
				c.Pods = append(c.Pods, o)
			case *networkingv1.NetworkPolicy:
				c.Policies = append(c.Policies, o)
			case *clusterv1beta1.ClusterNetworkPolicy:
				c.ClusterPolicies = append(c.ClusterPolicies, o)
			}
		}
		objects += len(c.Policies) + len(c.ClusterPolicies)
		lint.Lint(c)
	}
	if objects < 1000 {
		t.Errorf("only %d policies seen", objects)
	}
}

func keyOf(f lint.Finding) policy.Key {
	return policy.Key{Namespace: f.Object.Namespace, Name: f.Object.Name}
}

// packets are those between a cluster's addresses of which one side is judged as is does.
func packets(s policy.Snapshot, is func(policy.Judgement) bool) (found []string) {
	pods, others := random.Addresses(s)
	for _, src := range pods {
		for _, dst := range slices.Concat(pods, others) {
			if src.Is4() != dst.Is4() {
				continue
			}
			for _, ends := range [][2]netip.Addr{{src, dst}, {dst, src}} {
				p := policy.Packet{Src: ends[0], Dst: ends[1], Protocol: policy.TCP, DstPort: 80}
				if v := policy.Judge(s, p, policy.JudgeOptions{StagedInForce: true}); is(v.Egress) || is(v.Ingress) {
					found = append(found, fmt.Sprintf("%s to %s: %s", ends[0], ends[1], v))
				}
			}
		}
	}
	return found
}

var placePattern = regexp.MustCompile(`^spec\.(ingress|egress)\[(\d+)\](?:\.(?:from|to)\[(\d+)\])?`)

// placeOf reads a finding's path; peer is -1 if it names none.
func placeOf(t *testing.T, f lint.Finding) (direction policy.Direction, rule, peer int) {
	t.Helper()
	at := placePattern.FindStringSubmatch(f.Path)
	if at == nil {
		t.Fatalf("%s has no rule in its path", f)
	}
	direction = policy.Ingress
	if at[1] == "egress" {
		direction = policy.Egress
	}
	rule, _ = strconv.Atoi(at[2])
	if peer = -1; at[3] != "" {
		peer, _ = strconv.Atoi(at[3])
	}
	return direction, rule, peer
}

// alone is a cluster with one policy, which selects all pods and accepts what the peer of a finding
// means.
func alone(t *testing.T, s policy.Snapshot, f lint.Finding) policy.Snapshot {
	t.Helper()
	direction, rule, peer := placeOf(t, f)
	nps, cnps := s.Policies, s.ClusterPolicies
	s.Policies, s.ClusterPolicies = nil, nil
	for _, np := range nps {
		if f.Object.Kind != "NetworkPolicy" || np.Namespace != f.Object.Namespace || np.Name != f.Object.Name {
			continue
		}
		one := &networkingv1.NetworkPolicy{ObjectMeta: np.ObjectMeta}
		if direction == policy.Ingress {
			one.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: np.Spec.Ingress[rule].From[peer : peer+1]}}
			one.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		} else {
			one.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: np.Spec.Egress[rule].To[peer : peer+1]}}
			one.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		}
		s.Policies = append(s.Policies, one)
	}
	for _, cnp := range cnps {
		if f.Object.Kind != "ClusterNetworkPolicy" || cnp.Name != f.Object.Name {
			continue
		}
		one := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: cnp.ObjectMeta}
		one.Spec.Tier, one.Spec.Subject.Namespaces = clusterv1beta1.AdminTier, &metav1.LabelSelector{}
		if direction == policy.Ingress {
			one.Spec.Ingress = []clusterv1beta1.ClusterNetworkPolicyIngressRule{{Action: clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, From: cnp.Spec.Ingress[rule].From[peer : peer+1]}}
		} else {
			one.Spec.Egress = []clusterv1beta1.ClusterNetworkPolicyEgressRule{{Action: clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, To: cnp.Spec.Egress[rule].To[peer : peer+1]}}
		}
		s.ClusterPolicies = append(s.ClusterPolicies, one)
	}
	if len(s.Policies)+len(s.ClusterPolicies) != 1 {
		t.Fatalf("%s is about %d policies", f, len(s.Policies)+len(s.ClusterPolicies))
	}
	return s
}
