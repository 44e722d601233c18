package explain_test

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

const namesShop = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: shops, uid: shops, controller: true}]}
spec: {containers: [{name: web, image: web}]}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: other, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: shops, uid: shops, controller: true}]}
spec: {containers: [{name: web, image: web}]}
status: {phase: Running, podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}]}
`

const namesPolicy = `
metadata: {name: outside}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - {name: DNS, action: Accept, to: [{networks: [0.0.0.0/0]}], protocols: [{udp: {destinationPort: {number: 53}}}]}
  - {name: pay, action: Accept, to: [{networks: [198.51.100.0/24]}, {domainNames: ["*.Pay.example.com", api.example.com]}], protocols: [{tcp: {destinationPort: {number: 443}}}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
`

var (
	namesUntil = time.Date(2026, 12, 1, 12, 3, 4, 0, time.UTC)
	web, other = netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
	at7, at8   = netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
)

// told is what a pod was told, or, of the zero Addr, the agent.
func told(name string, addr, pod netip.Addr) policy.Resolution {
	return policy.Resolution{Name: name, Addr: addr, Pod: pod, Expires: namesUntil}
}

// namesCluster is namesShop with a ClusterNetworkPolicy and what names were resolved to.
func namesCluster(t *testing.T, text string, resolutions ...policy.Resolution) *explain.Cluster {
	t.Helper()
	c := parseCluster(t, namesShop)
	c.ClusterPolicies = append(c.ClusterPolicies, clusterPolicy(t, text))
	c.Resolutions, c.NamesKnown = resolutions, true
	return c
}

// clusterPolicy reads a ClusterNetworkPolicy.
func clusterPolicy(t *testing.T, text string) *clusterv1beta1.ClusterNetworkPolicy {
	t.Helper()
	cnp := &clusterv1beta1.ClusterNetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(text), cnp); err != nil {
		t.Fatal(err)
	}
	return cnp
}

// TestDomainNamesAreExplained: an explanation says by which name a rule means an address, who was told so and until when;
// or else why no name means it.
func TestDomainNamesAreExplained(t *testing.T) {
	const path = ".to[1].domainNames"
	for name, test := range map[string]struct {
		resolutions, lapsed []policy.Resolution
		policies            string
		unknown             bool
		want                []string
		domain              *explain.Domain
	}{
		"told the pod": {
			resolutions: []policy.Resolution{told("api.example.com", at7, web)},
			want:        []string{`ALLOWED`, `("pay") by api.example.com, which the pod was told has this address, until 2026-12-01T12:03:04Z`},
			domain:      &explain.Domain{Name: "api.example.com", Asked: "api.example.com", By: explain.ByPod, Until: namesUntil},
		},
		"told the agent": {
			resolutions: []policy.Resolution{told("api.example.com", at7, netip.Addr{})},
			want:        []string{`ALLOWED`, `by api.example.com, which the agent was told has this address, until`},
			domain:      &explain.Domain{Name: "api.example.com", Asked: "api.example.com", By: explain.ByAgent, Until: namesUntil},
		},
		"the longest counts": {
			resolutions: []policy.Resolution{{Name: "api.example.com", Addr: at7, Expires: namesUntil.Add(-time.Second)}, told("eu.pay.example.com", at7, web)},
			want:        []string{`ALLOWED`, `by eu.pay.example.com, which the pod was told`},
			domain:      &explain.Domain{Name: "*.Pay.example.com", Asked: "eu.pay.example.com", By: explain.ByPod, Until: namesUntil},
		},
		"no time": {
			resolutions: []policy.Resolution{told("api.example.com", at7, netip.Addr{}), {Name: "api.example.com", Addr: at7, Pod: web}},
			want:        []string{`ALLOWED`, "which the pod was told has this address\n"},
			domain:      &explain.Domain{Name: "api.example.com", Asked: "api.example.com", By: explain.ByPod},
		},
		"lapsed": {
			resolutions: []policy.Resolution{told("api.example.com", at8, web)},
			lapsed:      []policy.Resolution{{Name: "api.example.com", Addr: at7, Pod: web, Expires: namesUntil.Add(-time.Hour)}, told("api.example.com", at7, web)},
			want:        []string{`DENIED`, path + `[1]: api.example.com had the address 203.0.113.7 until 2026-12-01T12:03:04Z, which is over`},
		},
		"told another pod": {
			resolutions: []policy.Resolution{told("api.example.com", at7, other)},
			want:        []string{`DENIED`, path + `[1]: api.example.com has the address 203.0.113.7 for another pod`},
		},
		"the agent knows, which does not count for *": {
			resolutions: []policy.Resolution{told("eu.pay.example.com", at7, netip.Addr{})},
			want:        []string{`DENIED`, path + `[0]: the agent knows that eu.pay.example.com has the address 203.0.113.7, and that does not count for *`},
		},
		"other addresses": {
			resolutions: []policy.Resolution{told("api.example.com", at8, web), told("api.example.com", at8, netip.Addr{})},
			want:        []string{`DENIED`, path + `[1]: api.example.com has other addresses for the pod: 203.0.113.8` + "\n"},
		},
		"another name":     {resolutions: []policy.Resolution{told("api.example.net", at7, web)}, want: []string{`DENIED`, path + `[0]: no answer to the pod says that *.pay.example.com has the address 203.0.113.7: does the pod ask the cluster's DNS`}},
		"nothing is known": {unknown: true, want: []string{`DENIED`, path + `[0]: which addresses *.pay.example.com has is not known here`}},
		"the port is another": {
			resolutions: []policy.Resolution{told("api.example.com", at7, web)}, policies: strings.Replace(namesPolicy, "number: 443", "number: 444", 1),
			want: []string{`DENIED`, ".protocols[0].tcp: port 443 is not in 444\n"},
		},
		"not a name": {
			policies: strings.Replace(namesPolicy, `{networks: [198.51.100.0/24]}, {domainNames: ["*.Pay.example.com", api.example.com]}`, `{domainNames: [a..b]}`, 1),
			want:     []string{`DENIED`, `.to[0].domainNames[0]: "a..b" is not a domain name, nor one behind *.`},
		},
		"in a rule that passes": {
			policies: strings.Replace(namesPolicy, "{name: pay, action: Accept", "{name: pay, action: Pass", 1),
			want:     []string{`DENIED`, `denied by ClusterNetworkPolicy outside spec.egress[1]`},
		},
		"no DNS": {
			policies: strings.Replace(namesPolicy, "number: 53", "number: 54", 1),
			want:     []string{`DENIED`, `note: Pod web may not reach port 53/UDP of the cluster's DNS, which is denied by ClusterNetworkPolicy outside spec.egress[2].to[0], so that it cannot resolve names.`, path},
		},
	} {
		c := namesCluster(t, cmp.Or(test.policies, namesPolicy), test.resolutions...)
		c.NamesKnown, c.Lapsed = !test.unknown, test.lapsed
		e := ask(t, c, "shop/web", "203.0.113.7:443")
		text := textOf(t, e)
		for _, want := range test.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: it has no %q:\n%s", name, want, text)
			}
		}
		var domain *explain.Domain
		for _, r := range e.Answers[0].Egress.Rules {
			domain = r.Domain
		}
		if (domain == nil) != (test.domain == nil) || domain != nil && *domain != *test.domain {
			t.Errorf("%s: it is by %+v, want %+v", name, domain, test.domain)
		}
	}
}

// TestDomainNamesAsTargets: a name stands for the addresses that anybody was told it has.
func TestDomainNamesAsTargets(t *testing.T) {
	c := namesCluster(t, namesPolicy, told("api.example.com", at7, web), told("api.example.com", at8, other), told("www.example.com", at8, web))
	e := ask(t, c, "shop/web", "domain/API.example.com.:443")
	if len(e.Answers) != 2 || e.Answers[0].Verdict != explain.Allowed || e.Answers[1].Verdict != explain.Denied || e.Question != "shop/web to domain/api.example.com:443" {
		t.Errorf("%s", textOf(t, e))
	}
	if e := ask(t, c, "shop/web", "domain/nobody.example.com:443"); e.Verdict != explain.Unknown || !strings.Contains(textOf(t, e), "Which addresses nobody.example.com has is not known here.") {
		t.Errorf("%s", textOf(t, e))
	}
	if _, err := explain.ParseQuestion("domain/api.example.com", "shop/web", "shop"); err == nil || !strings.Contains(err.Error(), "does not tell who sends") {
		t.Errorf("from a name: %v", err)
	}
}

// TestReachNamesDomains: who reaches whom has a row for each name by which a pod reaches an address that it would not
// reach otherwise, and none for a name that makes no difference.
func TestReachNamesDomains(t *testing.T) {
	c := namesCluster(t, namesPolicy,
		told("api.example.com", at7, web), told("api.example.com", at8, other), told("www.example.com", at8, web),
		told("a.pay.example.com", netip.MustParseAddr("198.51.100.7"), web)) // which the rule means by its network too
	r, err := explain.New(c, policy.JudgeOptions{}).Reach(explain.Target{Kind: explain.KindPod, Namespace: "shop", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, row := range slices.Concat(r.Ingress, r.Egress) {
		if row.From.Kind == explain.KindDomain || row.To.Kind == explain.KindDomain {
			text, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, string(text))
		}
	}
	want := []string{
		`{"from":{"kind":"Pod","namespace":"shop","name":"web","size":1},"to":{"kind":"Domain","name":"api.example.com","size":2},"open":[{"protocol":"TCP","ports":["443"]},{"protocol":"UDP","ports":["53"]}],"pairs":1,"of":2,"partly":true}`,
		`{"from":{"kind":"Pod","namespace":"shop","name":"web","size":1},"to":{"kind":"Domain","name":"api.example.com","size":2},"open":[{"protocol":"UDP","ports":["53"]}],"pairs":1,"of":2,"partly":true}`,
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the rows are\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
	}
}

// TestPodsAreToldApartByWhatTheyWereTold: of pods that are alike but for what they were told, each has its answer.
func TestPodsAreToldApartByWhatTheyWereTold(t *testing.T) {
	c := namesCluster(t, namesPolicy, told("api.example.com", at7, other))
	e := ask(t, c, "sts/shop/shops", "203.0.113.7:443")
	if e.Verdict != explain.Mixed || len(e.Answers) != 2 || e.Answers[0].Verdict != explain.Denied || e.Answers[1].From.Name != "other" {
		t.Errorf("%s", textOf(t, e))
	}
	m, err := explain.New(c, policy.JudgeOptions{}).Matrix("shop")
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(m.Cells, func(cell explain.ReachCell) bool {
		return cell.From == "sts/shop/shops" && cell.To == "domain/api.example.com" && len(cell.Open) == 2
	})
	if at < 0 || m.Cells[at].Pairs != 1 || m.Cells[at].Of != 2 {
		t.Errorf("the cells are %+v", m.Cells)
	}
}
