package lint_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
)

const wrongInShop = `{podSelector: {matchLabels: {app: webb}}, ingress: [{from: [{podSelector: {matchLabels: {app: crat}}}, {ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/24]}}]}]}`

// TestOfSeen: what an agent finds is what Lint finds, as far as it is about selectors, named ports and
// excepts.
func TestOfSeen(t *testing.T) {
	c := clusterOf(t, true, world, np("p", wrongInShop), np("q", `{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: htpp}]}]}`))
	all, found := lint.Lint(c), lint.OfSeen(seenOf(c))
	if !reflect.DeepEqual(all, found) || len(found) != 4 {
		t.Errorf("an agent finds\n%v\nand Lint\n%v", found, all)
	}
	s := seenOf(c)
	s.Among = func(key policy.Key) bool { return key.Name == "q" }
	if found = lint.OfSeen(s); len(found) != 1 || found[0].Object.Name != "q" {
		t.Errorf("among q: %v", found)
	}
}

// TestUnread: where labels of pods of a namespace were not kept, nobody can say whom selectors mean
// there. Excepts do not depend on it.
func TestUnread(t *testing.T) {
	c := clusterOf(t, true, world, np("p", wrongInShop), np("q", `{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: htpp}]}]}`),
		"kind: NetworkPolicy\nmetadata: {namespace: data, name: p}\nspec: {podSelector: {matchLabels: {app: postgrse}}}")
	rules := func(s lint.Seen) (rules []string) {
		for _, f := range lint.OfSeen(s) {
			rules = append(rules, f.Object.Namespace+" "+string(f.Rule))
		}
		return rules
	}
	s := seenOf(c)
	if got, want := rules(s), []string{"data selects-nothing", "shop peer-matches-nothing", "shop empty-block", "shop selects-nothing", "shop named-port"}; !slices.Equal(got, want) {
		t.Fatalf("found %v, want %v", got, want)
	}
	for i, pod := range s.Pods {
		if pod.Namespace == "shop" && pod.Name == "cart" {
			s.Pods[i] = pod.Unkept()
		}
	}
	if got, want := rules(s), []string{"data selects-nothing", "shop empty-block"}; !slices.Equal(got, want) {
		t.Errorf("with a pod that was not read: found %v, want %v", got, want)
	}
}
