package explain_test

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// TestPlaceholdersWithoutPort: what is open, and what nobody knows, is said for each range of ports, and not by
// that of one of them.
func TestPlaceholdersWithoutPort(t *testing.T) {
	const block = "{to: [{ipBlock: {cidr: 10.244.0.0/16}}], ports: [%s]}"
	for _, test := range []struct {
		name, egress  string
		verdict       explain.Verdict
		open, unknown string
		line          string
		notes         int
	}{
		{"nothing for certain", fmt.Sprintf(block, "{port: 1}"), explain.Unknown, "[]", "[{TCP [1]}]",
			"UNKNOWN  shop/client-0 -> shop/web-0: not known: TCP 1; all else is closed\n", 1},
		{"one for certain", "{to: [{podSelector: {}}], ports: [{port: 8080}]}, " + fmt.Sprintf(block, "{port: 8080, endPort: 8082}") + ", " + fmt.Sprintf(block, "{port: 53, protocol: UDP}"),
			explain.Mixed, "[{TCP [8080]}]", "[{TCP [8081-8082]} {UDP [53]}]", "MIXED  shop/client-0 -> shop/web-0: open are TCP 8080; not known: TCP 8081-8082, UDP 53\n", 2},
		{"by everybody's network", "{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 81}]}", explain.Mixed, "[{TCP [81]}]", "[]",
			"MIXED  shop/client-0 -> shop/web-0: open are TCP 81\n", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := load(t, "cluster.yaml")
			for i, pod := range c.Pods[:2] {
				pod.Annotations = map[string]string{v1alpha1.StandInAnnotation: "true"}
				pod.Status.PodIPs[0].IP = []string{"240.0.0.2", "240.0.0.3"}[i]
			}
			c.Policies = append(c.Policies, parseCluster(t, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: out}\n"+
				"spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: ["+test.egress+"]}").Policies...)
			e := ask(t, c, "shop/client-0", "shop/web-0")
			a := e.Answers[0]
			text := textOf(t, e)
			if e.Verdict != test.verdict || fmt.Sprint(a.Open) != test.open || fmt.Sprint(a.Unknown) != test.unknown || !strings.HasPrefix(text, test.line) ||
				strings.Count(text, "has none yet") != test.notes {
				t.Errorf("%s, open %v, unknown %v; want %s, %s, %s, %q and %d notes:\n%s", e.Verdict, a.Open, a.Unknown, test.verdict, test.open, test.unknown, test.line, test.notes, text)
			}
		})
	}
}

// TestWithoutPortIsWhatEachPortGets: a question without a port says of each port what a question with that port
// says, where addresses are placeholders as well.
func TestWithoutPortIsWhatEachPortGets(t *testing.T) {
	said := map[explain.Verdict]int{}
	unknownBeside := 0
	for s := *seed; s < *seed+8; s++ {
		r := rand.New(rand.NewSource(s))
		c := oneFamily(r)
		standingIn(r, c)
		x := newExplainer(c)
		pods := live(x, c)
		each := verdicts(t, x, pods)
		for _, from := range pods {
			for _, to := range pods {
				e, err := x.Explain(explain.Question{From: podTarget(from), To: podTarget(to)})
				if err != nil {
					t.Fatal(err)
				}
				if from == to || len(e.Answers) == 0 {
					continue
				}
				a := e.Answers[0]
				said[a.Verdict]++
				if a.Verdict == explain.Mixed && len(a.Unknown) > 0 {
					unknownBeside++
				}
				for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
					for _, port := range unknownPorts {
						key := fmt.Sprintf("%s/%s %s/%s %s %s %d/%s", from.Namespace, from.Name, to.Namespace, to.Name, partyText(from), partyText(to), port, protocol)
						if got := verdictAt(t, a, protocol, port); got != each[key] {
							t.Fatalf("seed %d: %s: %s of %+v, asked alone %s", s, key, got, a, each[key])
						}
					}
				}
			}
		}
	}
	t.Logf("%v, %d of them Mixed with ports that are not known", said, unknownBeside)
	if said[explain.Unknown] < 20 || said[explain.Denied] < 20 || said[explain.Mixed] < 20 || unknownBeside < 2 {
		t.Error("too few of them were compared")
	}
}

// verdictAt is what an answer about all ports says of one.
func verdictAt(t *testing.T, a explain.Answer, protocol policy.Protocol, port uint16) explain.Verdict {
	t.Helper()
	for _, of := range []struct {
		verdict explain.Verdict
		ports   []explain.OpenPorts
	}{{explain.Allowed, a.Open}, {explain.Unknown, a.Unknown}} {
		for _, p := range of.ports {
			if p.Protocol == protocol.String() && inRanges(t, p.Ports)(port) {
				return of.verdict
			}
		}
	}
	return explain.Denied
}
