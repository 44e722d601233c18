package explain_test

import (
	"fmt"
	"maps"
	"math/rand"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// unknownPorts are where pairs are asked about whose addresses are placeholders.
var unknownPorts = []uint16{1, 53, 80, 443, 8080}

// standingIn marks a third of the pods of a cluster as standing in.
func standingIn(r *rand.Rand, c *explain.Cluster) {
	for i, pod := range c.Pods {
		if r.Intn(3) == 0 {
			c.Pods[i] = pod.DeepCopy()
			c.Pods[i].Annotations = map[string]string{v1alpha1.StandInAnnotation: "true"}
		}
	}
}

// verdicts are what Explain says of each pair of pods and port: "a -> b 80/TCP".
func verdicts(t *testing.T, x *explain.Explainer, pods []*corev1.Pod) map[string]explain.Verdict {
	t.Helper()
	all := map[string]explain.Verdict{}
	for _, from := range pods {
		for _, to := range pods {
			if from == to {
				continue
			}
			for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
				for _, port := range unknownPorts {
					e, err := x.Explain(explain.Question{From: podTarget(from), To: podTarget(to), Port: explain.Port{Protocol: protocol, Number: port}})
					if err != nil {
						t.Fatal(err)
					}
					if len(e.Answers) > 0 {
						all[fmt.Sprintf("%s/%s %s/%s %s %s %d/%s", from.Namespace, from.Name, to.Namespace, to.Name, partyText(from), partyText(to), port, protocol)] = e.Verdict
					}
				}
			}
		}
	}
	return all
}

// byParties counts what is said of pairs of pods by pairs of parties.
func byParties(key, what string) string {
	words := strings.Fields(key)
	return fmt.Sprintf("%s -> %s %s %s", words[2], words[3], words[4], what)
}

func addPorts(t *testing.T, to tally, from, party, what string, ports []explain.OpenPorts, pairs int) {
	t.Helper()
	for _, of := range ports {
		in := inRanges(t, of.Ports)
		for _, port := range unknownPorts {
			if in(port) && (of.Protocol == "TCP" || of.Protocol == "UDP") {
				to[fmt.Sprintf("%s -> %s %d/%s %s", from, party, port, of.Protocol, what)] += pairs
			}
		}
	}
}

// TestUnknownIsWhatExplainSays: where addresses are placeholders, a matrix has the very ports open, and
// unknown, of which Explain says so; and a Diff has opened and closed what is known before and after and
// differs, has as unclear what is known of one of the two, and leaves out what is not known of either.
func TestUnknownIsWhatExplainSays(t *testing.T) {
	unknown, unclear, sure, bothUnknown := 0, 0, 0, 0
	for s := *seed; s < *seed+8; s++ {
		r := rand.New(rand.NewSource(s))
		old := oneFamily(r)
		standingIn(r, old)
		now := mutated(r, old)
		x, y := newExplainer(old), newExplainer(now)
		m, err := x.Matrix("")
		if err != nil {
			t.Fatal(err)
		}
		got, want := tally{}, tally{}
		for _, cell := range m.Cells {
			if !isOutside(cell.From) && !isOutside(cell.To) {
				addPorts(t, got, cell.From, cell.To, "open", cell.Open, cell.Pairs)
				addPorts(t, got, cell.From, cell.To, "unknown", cell.Unknown, cell.Pairs)
			}
		}
		pods := live(x, old)
		before, after := verdicts(t, x, pods), verdicts(t, y, pods)
		changes := tally{}
		for key, was := range before {
			is := after[key]
			switch was {
			case explain.Allowed:
				want[byParties(key, "open")]++
			case explain.Unknown:
				want[byParties(key, "unknown")]++
				unknown++
			}
			switch {
			case was == is && was == explain.Unknown:
				bothUnknown++
			case was == is:
			case was == explain.Unknown || is == explain.Unknown:
				changes[byParties(key, "unclear")]++
				unclear++
			default:
				changes[byParties(key, string(is))]++
				sure++
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: the matrix has\n%s\nand Explain\n%s", s, lines(got, want), lines(want, got))
		}
		d := explain.Compare(x, y)
		found := tally{}
		for what, all := range map[string][]explain.Change{string(explain.Allowed): d.Opened, string(explain.Denied): d.Closed, "unclear": d.Unclear} {
			for _, c := range all {
				if ofPods(c.From) && ofPods(c.To) {
					addPorts(t, found, c.From.String(), c.To.String(), what, c.Open, c.Pairs)
				}
			}
		}
		if !maps.Equal(found, changes) {
			t.Fatalf("seed %d: the diff has\n%s\nand Explain\n%s", s, lines(found, changes), lines(changes, found))
		}
	}
	t.Logf("of pairs and ports %d were unknown, %d changed, %d were unclear, %d unknown before and after", unknown, sure, unclear, bothUnknown)
	if unknown < 100 || sure < 50 || unclear < 20 || bothUnknown < 100 {
		t.Error("too few of them were compared")
	}
}

// withEgress is the shop of testdata/mistakes where the client and the web stand in, and the client may send
// to the given peers.
func withEgress(t *testing.T, peers ...networkingv1.NetworkPolicyPeer) *explain.Explainer {
	t.Helper()
	c := load(t, "cluster.yaml")
	for i, pod := range c.Pods[:2] {
		pod.Annotations = map[string]string{v1alpha1.StandInAnnotation: "true"}
		pod.Status.PodIPs[0].IP = []string{"240.0.0.2", "240.0.0.3"}[i]
	}
	c.Policies = append(c.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "client"}}, PolicyTypes: []networkingv1.PolicyType{"Egress"},
		Egress: []networkingv1.NetworkPolicyEgressRule{{To: peers}},
	}})
	return newExplainer(c)
}

// TestUnknownText: what is not known is said so, with the rule that is why; and is no change if it was not
// known before.
func TestUnknownText(t *testing.T) {
	block := func(cidr string) networkingv1.NetworkPolicyPeer {
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}
	}
	ten, twenty := withEgress(t, block("10.244.0.0/16")), withEgress(t, block("10.244.0.0/17"))
	r, err := ten.Reach(target(t, "shop/client-0"))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := r.WriteText(&text, explain.Plain, explain.Table{}); err != nil {
		t.Fatal(err)
	}
	if got := text.String(); !strings.Contains(got, "not known\n") || !strings.Contains(got, "note: Ports are not known where a rule names addresses") {
		t.Errorf("not known is not in\n%s", got)
	}
	m, err := ten.Matrix("shop")
	if err != nil {
		t.Fatal(err)
	}
	text.Reset()
	if err := m.WriteText(&text, explain.Plain, explain.Table{}); err != nil || !strings.Contains(text.String(), "  ?all  ") || !strings.Contains(text.String(), "?: not known") {
		t.Errorf("%v, not known is not in\n%s", err, &text)
	}
	for _, c := range explain.Compare(ten, twenty).Unclear {
		t.Errorf("what is unknown on both sides is a change: %+v", c)
	}
	d := explain.Compare(ten, withEgress(t, block("0.0.0.0/0")))
	if got := diffText(t, d); !strings.Contains(got, "UNCLEAR  shop/client-0 -> shop/web-0  all ports") || !strings.Contains(got, "before: unknown: ") ||
		!strings.Contains(got, "note: NetworkPolicy shop/out spec.egress[0] names addresses, and shop/web-0 has none yet") {
		t.Errorf("unclear is not in\n%s", got)
	}
}

// TestFamiliesOfPlaceholders: that files have to do with IPv6 only after a change hides nothing of it.
func TestFamiliesOfPlaceholders(t *testing.T) {
	pod := func(ips ...string) *explain.Cluster {
		c := parseCluster(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: web, annotations: {podfence.io/stand-in: \"true\"}}\nstatus: {phase: Running}")
		for _, ip := range ips {
			c.Pods[0].Status.PodIPs = append(c.Pods[0].Status.PodIPs, corev1.PodIP{IP: ip})
		}
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "out"}}
		np.Spec.PolicyTypes = []networkingv1.PolicyType{"Egress"}
		c.Policies = append(c.Policies, np)
		return c
	}
	four, both := pod("240.0.0.2"), pod("240.0.0.2", "2001:db8:ffff::2")
	if d := explain.Compare(newExplainer(four), newExplainer(both)); !d.Empty() {
		t.Errorf("an address more is a change:\n%s", diffText(t, d))
	}
	both.Policies[0].Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "::/0"}}}}}
	for _, d := range []*explain.Diff{explain.Compare(newExplainer(four), newExplainer(both)), explain.Compare(newExplainer(both), newExplainer(four))} {
		if len(d.Opened)+len(d.Closed) != 1 || !strings.Contains(diffText(t, d), "shop/web -> outside (any other IPv6 address)  all ports") {
			t.Errorf("what IPv6 opens or closes is not in\n%s", diffText(t, d))
		}
	}
}

// TestApplyKeepsLabelsOfNamespaces: as kubectl apply, Apply leaves labels that no file has had.
func TestApplyKeepsLabelsOfNamespaces(t *testing.T) {
	old := parseCluster(t, `
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {team: shop, tier: gone, cost: "7"}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"metadata":{"labels":{"team":"shop","tier":"gone"}}}'}`)
	now, err := explain.Apply(old, parseCluster(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: other}}"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"team": "other", "cost": "7", corev1.LabelMetadataName: "shop"}
	if got := now.Namespaces[0].Labels; len(now.Namespaces) != 1 || !maps.Equal(got, want) {
		t.Errorf("labels %v, want %v", got, want)
	}
	if len(old.Namespaces[0].Labels) != 3 {
		t.Errorf("the cluster that was applied to has changed: %v", old.Namespaces[0].Labels)
	}
}
