package agreement_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// TestCheckFindsFaults: each of the three, when it is wrong alone, is found.
func TestCheckFindsFaults(t *testing.T) {
	c := open(t, lab.Routed, lab.Options{Patience: settle}) // what should arrive and does not is what is looked for
	s := webAllowed()
	web, cron, pg := netip.MustParseAddr("10.244.1.10"), netip.MustParseAddr("10.244.1.11"), netip.MustParseAddr("10.244.1.12")
	cases := agreement.Cases([]policy.Packet{
		{Src: web, Dst: pg, Protocol: policy.TCP, DstPort: 5432},
		{Src: cron, Dst: pg, Protocol: policy.TCP, DstPort: 5432},
	})
	// wrong are the packets about which not all say the same, and readBack is how many of them meet other rules
	// in the kernel than in the table.
	readBack := 0
	wrong := func(s policy.Snapshot) (texts []string) {
		t.Helper()
		readBack = 0
		report, err := c.Check(context.Background(), s, cases)
		if err != nil {
			t.Fatal(err)
		}
		if len(report) != len(cases) {
			t.Fatalf("%d of %d packets checked", len(report), len(cases))
		}
		for _, r := range report.Disagreements() {
			if r.ReadBack != "" {
				readBack++
			}
			if r.Judged != r.Probe.Arrived || r.Traced != r.Probe.Arrived { // and not only by another way
				texts = append(texts, r.String())
			}
		}
		return texts
	}
	peers := ""
	for name := range ruleset.Build(intent(s), ruleset.Options{}).Sets {
		if strings.HasPrefix(name, "peers-4-") {
			peers = name
		}
	}
	for _, fault := range []struct {
		name, commands string
		src            netip.Addr
		arrived        bool
	}{
		{"the kernel lacks an element", "delete element inet podfence " + peers + " { 10.244.1.10 }", web, false},
		{"the kernel has an element too many", "add element inet podfence " + peers + " { 10.244.1.11 }", cron, true},
		{"the kernel lacks a pod", "delete element inet podfence ingress-pods-4 { 10.244.1.12 }", web, false}, // its address is then nobody's
		{"the kernel has a rule too many", "insert rule inet podfence ingress-forward accept", cron, true},
		{"the kernel lacks the table", "delete table inet podfence", cron, true},
	} {
		if err := c.Replace(s, ruleset.Options{}); err != nil {
			t.Fatal(err)
		}
		if found := wrong(s); len(found) > 0 {
			t.Fatalf("without a fault: %s", found)
		}
		if err := c.NFT(fault.commands); err != nil {
			t.Fatal(err)
		}
		found := wrong(s)
		arrived := "arrived false"
		if fault.arrived {
			arrived = "arrived true"
		}
		if len(found) != 1 || !strings.Contains(found[0], fault.src.String()+" ->") || !strings.Contains(found[0], arrived) {
			t.Errorf("%s: found %q, want one that %s from %s", fault.name, found, arrived, fault.src)
		}
		if readBack == 0 {
			t.Errorf("%s: the kernel's rules were not read back as other ones than the table's", fault.name)
		}
	}

	// The table and the kernel agree, but have missed a change.
	if err := c.Replace(s, ruleset.Options{}); err != nil {
		t.Fatal(err)
	}
	newer := s
	newer.Policies = nil
	if found := wrong(newer); len(found) != 1 || !strings.Contains(found[0], cron.String()+" ->") {
		t.Errorf("a missed change: found %q", found)
	}
	// The kernel is right, but the table that traces is not.
	delete(c.Table().Sets[peers].Elements, nft.AddrElement(web))
	if found := wrong(s); len(found) != 1 || !strings.Contains(found[0], web.String()+" ->") || !strings.Contains(found[0], "traced  false") {
		t.Errorf("a wrong table: found %q", found)
	}
}

func intent(s policy.Snapshot) policy.Intent {
	in, _ := policy.Compile(s, random.Node)
	return in
}

// webAllowed is a cluster of three pods, where only web may reach pg.
func webAllowed() policy.Snapshot {
	s := policy.Snapshot{
		Nodes:      random.Nodes(),
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
		Policies: []*networkingv1.NetworkPolicy{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "pg"},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "pg"}},
				Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
					PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
				}}}},
			},
		}},
	}
	for app, addr := range map[string]string{"web": "10.244.1.10", "cron": "10.244.1.11", "pg": "10.244.1.12"} {
		s.Pods = append(s.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: app, Labels: map[string]string{"app": app}},
			Spec:       corev1.PodSpec{NodeName: random.Node},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: addr}}},
		})
	}
	return s
}
