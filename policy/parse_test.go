package policy_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
)

func parse(t *testing.T, spec string) (policy.Policy, []policy.Problem) {
	t.Helper()
	np := &networkingv1.NetworkPolicy{}
	if err := json.Unmarshal([]byte(`{"metadata":{"namespace":"shop","name":"p"},"spec":`+spec+`}`), np); err != nil {
		t.Fatal(err)
	}
	return policy.Parse(np)
}

// TestParseProblems: what cannot be read allows nothing, is reported with its
// place, and takes nothing else along.
func TestParseProblems(t *testing.T) {
	for _, c := range []struct {
		what, spec, field, reason string
		remaining                 int // peers, blocks and ports that remain
	}{
		{"except", `{"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.0.0.0/16","x"]}}]}]}`, "spec.ingress[0].from[0].ipBlock.except[1]", "block matches nothing", 0},
		{"cidr", `{"egress":[{"to":[{"ipBlock":{"cidr":"10.0.0.0/33"}},{"podSelector":{}}]}]}`, "spec.egress[0].to[0].ipBlock.cidr", "block matches nothing", 1},
		{"peer selector", `{"ingress":[{"from":[{"podSelector":{"matchExpressions":[{"key":"a","operator":"Like"}]}},{"namespaceSelector":{}}]}]}`, "spec.ingress[0].from[0].podSelector", "peer matches nothing", 1},
		{"empty peer", `{"ingress":[{"from":[{}]}]}`, "spec.ingress[0].from[0]", "peer matches nothing", 0},
		{"two peers in one", `{"ingress":[{"from":[{"podSelector":{},"ipBlock":{"cidr":"10.0.0.0/8"}}]}]}`, "spec.ingress[0].from[0]", "excludes", 0},
		{"protocol", `{"ingress":[{"ports":[{"protocol":"ICMP"}]}]}`, "spec.ingress[0].ports[0].protocol", "port matches nothing", 0},
		{"port 0", `{"ingress":[{"ports":[{"port":0},{"port":80}]}]}`, "spec.ingress[0].ports[0]", "port matches nothing", 1},
		{"port range backwards", `{"ingress":[{"ports":[{"port":90,"endPort":80}]}]}`, "spec.ingress[0].ports[0]", "port matches nothing", 0},
		{"end of a name", `{"ingress":[{"ports":[{"port":"http","endPort":80}]}]}`, "spec.ingress[0].ports[0].endPort", "port matches nothing", 0},
		{"end of nothing", `{"ingress":[{"ports":[{"endPort":80}]}]}`, "spec.ingress[0].ports[0].endPort", "port matches nothing", 0},
		{"policy type", `{"policyTypes":["ingress"]}`, "spec.policyTypes[0]", "isolates both", 0},
		{"subject", `{"podSelector":{"matchLabels":{"a b":"c"}}}`, "spec.podSelector", "selects no pod", 0},
	} {
		p, problems := parse(t, c.spec)
		if len(problems) != 1 || problems[0].Field != c.field || !strings.Contains(problems[0].Reason, c.reason) {
			t.Errorf("%s: %v, want %s: …%s…", c.what, problems, c.field, c.reason)
		}
		remaining := 0
		for _, d := range policy.Directions {
			for _, rule := range p.Rules[d] {
				remaining += len(rule.Peers) + len(rule.Blocks) + len(rule.Ports) + len(rule.NamedPorts)
				if rule.AnyPeer && rule.AnyPort {
					t.Errorf("%s: the rule allows everything", c.what)
				}
			}
		}
		if remaining != c.remaining {
			t.Errorf("%s: %d peers, blocks and ports are left, want %d: %+v", c.what, remaining, c.remaining, p.Rules)
		}
		if !p.Isolates[policy.Ingress] {
			t.Errorf("%s: the policy does not isolate", c.what)
		}
	}
}

// TestPortOfNoKind: a port that is neither a number nor a name, which JSON can't
// say and protobuf can, matches nothing.
func TestPortOfNoKind(t *testing.T) {
	np := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{
		Ports: []networkingv1.NetworkPolicyPort{{Port: &intstr.IntOrString{Type: 7, IntVal: 80, StrVal: "http"}}},
	}}}}
	p, problems := policy.Parse(np)
	if rule := p.Rules[policy.Ingress][0]; len(problems) != 1 || problems[0].Field != "spec.ingress[0].ports[0].port" || rule.AnyPort || len(rule.Ports)+len(rule.NamedPorts) > 0 {
		t.Errorf("%v, %+v", problems, rule)
	}
}

// TestProblemsAreLines: what an object says can't end the line that quotes it, nor
// make it long.
func TestProblemsAreLines(t *testing.T) {
	_, problems := parse(t, `{"policyTypes":["`+strings.Repeat("x", 5000)+`"],"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8\nlevel=error \u001b[31m"}}]}]}`)
	for _, problem := range problems {
		if strings.ContainsFunc(problem.Reason, unicode.IsControl) || len(problem.Reason) > 512 || !strings.Contains(problem.Reason, ": the ") {
			t.Errorf("%q", problem.Reason)
		}
	}
	if len(problems) != 2 {
		t.Error(problems)
	}
}

// list is a JSON list of n elements, # in which stands for their number from 1 on.
func list(n int, format string) string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = strings.ReplaceAll(format, "#", strconv.Itoa(i+1))
	}
	return "[" + strings.Join(texts, ",") + "]"
}

const selector, name = `{"podSelector":{"matchLabels":{"l#":"x"}}}`, `{"port":"p#"}`

// TestLarge: what costs the kernel by its number alone may be as much as an object has
// room for, with as many selectors as there may be.
func TestLarge(t *testing.T) {
	for what, rule := range map[string]string{
		"selectors":    `{"from":` + list(1_300, selector) + `}`,
		"port names":   `{"ports":` + list(400, name) + `}`,
		"single ports": `{"from":` + list(140, selector) + `,"ports":` + list(5_000, `{"port":#1}`) + `}`,
		"excepts":      `{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":` + list(250, `"10.1.#.0/32"`) + `}}]}`,
	} {
		if p, problems := parse(t, `{"ingress":[`+rule+`]}`); len(problems) > 0 {
			t.Errorf("%s: %.1v, of %d rules", what, problems, len(p.Rules[policy.Ingress]))
		}
	}
}

// TestTooLarge: a policy that is too large, whatever it is made of, makes
// no more of the kernel than there is room for: the rules past that match nothing,
// those before hold, and the policy isolates.
func TestTooLarge(t *testing.T) {
	for what, rules := range map[string]string{
		"selectors":                      `{"from":` + list(3_000, selector) + `}`,
		"port names":                     `{"ports":` + list(5_000, name) + `}`,
		"pairs":                          `{"from":` + list(200, selector) + `,"ports":` + list(200, name) + `}`,
		"pairs with ranges":              `{"from":` + list(3_000, selector) + `,"ports":` + list(6_000, `{"port":#0,"endPort":#1}`) + `}`,
		"rules of a selector and a port": strings.Trim(list(3_000, `{"from":[`+selector+`],"ports":[{"port":#1}]}`), "[]"),
	} {
		p, problems := parse(t, `{"ingress":[{"ports":[{"port":80}]},`+rules+`]}`)
		if len(problems) == 0 || !strings.Contains(problems[0].Reason, "too large") || !p.Isolates[policy.Ingress] {
			t.Errorf("%s: %d problems, the first: %.1v", what, len(problems), problems)
		}
		if first := p.Rules[policy.Ingress][0]; len(first.Ports) != 1 {
			t.Errorf("%s: the first rule is %+v", what, first)
		}
		held := 0
		for _, rule := range p.Rules[policy.Ingress] {
			held += max(len(rule.Peers), 1)*max(len(rule.NamedPorts), 1) - 1
			if rule.AnyPeer || rule.AnyPort || len(rule.Peers)+len(rule.Blocks)+len(rule.Ports)+len(rule.NamedPorts) > 0 {
				held++
			}
		}
		if held > 2000 {
			t.Errorf("%s: %d rules are held", what, held)
		}
	}
}

// TestMerged: what can be said in fewer rules is.
func TestMerged(t *testing.T) {
	const equal, block = `{"from":[{"ipBlock":{"cidr":"10.0.0.0/8"}}],"ports":[{"port":1}]}`, `{"ipBlock":{"cidr":"10.#.0.0/16"}}`
	for what, test := range map[string]struct {
		rules       string
		left, peers int
		ports       int // ranges
	}{
		"equal":                {strings.Trim(list(4_000, equal), "[]"), 1, 1, 1},
		"selectors":            {strings.Trim(list(140, `{"from":[`+selector+`],"ports":[{"port":80}]}`), "[]"), 1, 9, 1},
		"ports":                {strings.Trim(list(3_000, `{"from":[{"podSelector":{}}],"ports":[{"port":#1}]}`), "[]"), 12, 1, 250},
		"blocks":               {strings.Trim(list(200, `{"from":[`+block+`]}`), "[]"), 1, 1, 0},
		"all":                  {strings.Trim(list(6_000, `{}`), "[]"), 1, 0, 0},
		"all, and others":      {equal + `,{"from":[{"podSelector":{}}]},{}`, 1, 0, 0},
		"any peer on a port":   {equal + `,{"ports":[{"port":1}]}`, 1, 0, 1},
		"any port of a peer":   {equal + `,{"from":[{"ipBlock":{"cidr":"10.0.0.0/8"}}]}`, 1, 1, 0},
		"nothing in common":    {equal + `,{"from":[{"podSelector":{}}],"ports":[{"port":2}]}`, 2, 1, 1},
		"nothing opens others": {`{"from":[{}]},{"ports":[{"port":0}]},` + equal, 1, 1, 1},
	} {
		np := &networkingv1.NetworkPolicy{}
		if err := json.Unmarshal([]byte(`{"spec":{"ingress":[`+test.rules+`]}}`), np); err != nil {
			t.Fatal(err)
		}
		p, _ := policy.Parse(np)
		var rules []policy.Rule // that allow something
		for _, r := range p.Rules[policy.Ingress] {
			if (r.AnyPeer || len(r.Peers)+len(r.Blocks) > 0) && (r.AnyPort || len(r.Ports)+len(r.NamedPorts) > 0) {
				rules = append(rules, r)
			}
		}
		if len(rules) != test.left || len(rules[0].Peers)+len(rules[0].Blocks) != test.peers || len(rules[0].Ports) != test.ports {
			t.Errorf("%s: %d rules, the first: %.200v", what, len(rules), fmt.Sprint(rules))
		}
	}
}

// BenchmarkParse reads policies that are as large as the API server takes them.
func BenchmarkParse(b *testing.B) {
	for what, rules := range map[string]string{
		"selectors":            list(1, `{"from":`+list(1_300, selector)+`}`),
		"blocks":               list(1, `{"from":`+list(20_000, `{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.0.0.0/9"]}}`)+`}`),
		"many peers, one port": list(3_990, `{"from":[`+selector+`],"ports":[{"port":80}]}`),
		"one peer, many ports": list(3_990, `{"from":[{"podSelector":{}}],"ports":[{"port":#}]}`),
		"rules, all equal":     list(3_990, `{"from":[{"podSelector":{}}],"ports":[{"port":80}]}`),
	} {
		np := &networkingv1.NetworkPolicy{}
		if err := json.Unmarshal([]byte(`{"spec":{"ingress":`+rules+`}}`), np); err != nil {
			b.Fatal(err)
		}
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				policy.Parse(np)
			}
		})
	}
}

// TestRuleKey: no two rules that differ have the same key, in whatever they differ.
func TestRuleKey(t *testing.T) {
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	rules := []policy.Rule{
		{}, {Index: 1}, {Index: -1}, {Merged: []int{1}}, {Merged: []int{1, 2}}, {Name: "a"}, {Action: policy.Deny}, {Action: policy.Pass}, {AnyPeer: true}, {AnyPort: true},
		{Peers: []policy.Selector{{OfNodes: true}}}, {Peers: []policy.Selector{{OfNodes: true, Nodes: "a"}}}, {NamedPorts: []policy.NamedPort{{Name: "a"}}},
		{Peers: []policy.Selector{{}}}, {Peers: []policy.Selector{{}, {}}},
		{Peers: []policy.Selector{{Namespace: "a"}}}, {Peers: []policy.Selector{{Namespaces: "a"}}},
		{Peers: []policy.Selector{{Pods: "a"}}}, {Peers: []policy.Selector{{Or: "a"}}},
		{Peers: []policy.Selector{{Pods: "a"}, {Pods: "b"}}}, {Peers: []policy.Selector{{Pods: "a", Or: "b"}}},
		{Blocks: []policy.AddrRange{{First: one, Last: one}}}, {Blocks: []policy.AddrRange{{First: one, Last: two}}},
		{Blocks: []policy.AddrRange{{First: netip.AddrFrom16(one.As16()), Last: netip.AddrFrom16(one.As16())}}},
		{Domains: []policy.DomainName{"a.b"}}, {Domains: []policy.DomainName{"*.a.b"}}, {Domains: []policy.DomainName{"*.a.b", "a.b"}},
		{Ports: []policy.PortRange{{Protocol: policy.TCP, First: 1, Last: 1}}}, {Ports: []policy.PortRange{{Protocol: policy.UDP, First: 1, Last: 1}}},
		{Ports: []policy.PortRange{{Protocol: policy.TCP, First: 1, Last: 2}}}, {Ports: []policy.PortRange{{Protocol: policy.TCP, First: 2, Last: 2}}},
		{NamedPorts: []policy.NamedPort{{Protocol: policy.TCP, Name: "a"}}}, {NamedPorts: []policy.NamedPort{{Protocol: policy.UDP, Name: "a"}}},
		{NamedPorts: []policy.NamedPort{{Protocol: policy.TCP, Name: "b"}}}, {NamedPorts: []policy.NamedPort{{Protocol: policy.TCP, Name: "a", Scope: policy.Cluster}}},
	}
	keys := map[string]policy.Rule{}
	for _, r := range rules {
		if other, is := keys[policy.RuleKey(r)]; is {
			t.Errorf("%+v and %+v have the same key", r, other)
		}
		keys[policy.RuleKey(r)] = r
	}
	// What a field more would need is a line here, and one in the key.
	for kind, fields := range map[reflect.Type]int{
		reflect.TypeFor[policy.Rule](): 11, reflect.TypeFor[policy.Selector](): 6, reflect.TypeFor[policy.AddrRange](): 2,
		reflect.TypeFor[policy.PortRange](): 3, reflect.TypeFor[policy.NamedPort](): 3,
	} {
		if n := kind.NumField(); n != fields {
			t.Errorf("%v has %d fields, and the key tells %d apart", kind, n, fields)
		}
	}
}

// TestAsksForLabel: that a selector asks for a label can be told by its canonical text.
func TestAsksForLabel(t *testing.T) {
	requirements := []string{"a=b", "a in (b,c)", "a notin (b,c)", "a notin (b)", "!a", "a", "a!=b", "a=", "x.y/a in (,b)", "notin=b", "a=notin", "x.y/notin notin (in)"}
	texts := []string{""}
	for _, one := range requirements {
		texts = append(texts, one)
		for _, other := range requirements {
			texts = append(texts, one+","+other)
		}
	}
	for _, text := range texts {
		if byText, read := policy.AsksForLabel(text); byText != read {
			t.Errorf("%q: %v, and read it is %v", text, byText, read)
		}
	}
}

// TestSelectorsShare: the same pods in other words are the same Selector; other
// pods are another.
func TestSelectorsShare(t *testing.T) {
	peer := func(text string) policy.Selector {
		p, problems := parse(t, `{"ingress":[{"from":[`+text+`]}]}`)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return p.Rules[policy.Ingress][0].Peers[0]
	}
	same := [][2]string{
		{`{"podSelector":{"matchLabels":{"a":"x","b":"y"}}}`, `{"podSelector":{"matchExpressions":[{"key":"b","operator":"In","values":["y"]},{"key":"a","operator":"In","values":["x"]}]}}`},
		{`{"podSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["y","x","y"]}]}}`, `{"podSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["x","y"]}]}}`},
		{`{"namespaceSelector":{}}`, `{"namespaceSelector":{},"podSelector":{}}`},
	}
	for _, pair := range same {
		if a, b := peer(pair[0]), peer(pair[1]); a != b {
			t.Errorf("%s is %v, %s is %v", pair[0], a, pair[1], b)
		}
	}
	differ := []string{
		`{"podSelector":{}}`, `{"namespaceSelector":{}}`, `{"podSelector":{"matchLabels":{"a":""}}}`,
		`{"podSelector":{"matchExpressions":[{"key":"a","operator":"Exists"}]}}`,
		`{"podSelector":{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}}`,
		`{"podSelector":{"matchExpressions":[{"key":"a","operator":"NotIn","values":[""]}]}}`,
		`{"podSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["","x"]}]}}`,
		`{"namespaceSelector":{"matchLabels":{"a":""}}}`,
	}
	seen := map[policy.Selector]string{}
	for _, text := range differ {
		s := peer(text)
		if other, taken := seen[s]; taken {
			t.Errorf("%s and %s are both %v", text, other, s)
		}
		seen[s] = text
	}
}

// FuzzParse: whatever a policy says, within the types of the API, reading it
// neither panics nor lets a rule with a peer or port that cannot be read allow
// more than one without it.
func FuzzParse(f *testing.F) {
	f.Add(`{"podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"port":80,"endPort":90}]}]}`)
	f.Add(`{"policyTypes":["Egress"],"egress":[{"to":[{"namespaceSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]}}],"ports":[{"port":"http","protocol":"UDP"}]}]}`)
	f.Fuzz(func(t *testing.T, spec string) {
		np := &networkingv1.NetworkPolicy{}
		if json.Unmarshal([]byte(spec), &np.Spec) != nil {
			return
		}
		p, _ := policy.Parse(np)
		for i, rule := range p.Rules[policy.Ingress] {
			if rule.AnyPeer != (len(np.Spec.Ingress[i].From) == 0) || rule.AnyPort != (len(np.Spec.Ingress[i].Ports) == 0) {
				t.Errorf("rule %d is %+v", i, rule)
			}
		}
		for i, rule := range p.Rules[policy.Egress] {
			if rule.AnyPeer != (len(np.Spec.Egress[i].To) == 0) || rule.AnyPort != (len(np.Spec.Egress[i].Ports) == 0) {
				t.Errorf("rule %d is %+v", i, rule)
			}
		}
	})
}
