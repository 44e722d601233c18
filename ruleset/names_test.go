package ruleset

import (
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podfence/podfence/policy"
)

// nftName is what nft reads as one word (its scanner's "string").
var nftName = regexp.MustCompile(`^[A-Za-z_.][A-Za-z0-9/\\_.-]*$`)

func TestNames(t *testing.T) {
	long := policy.Key{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253)}
	longer := long
	longer.Name = strings.Repeat("p", 252) + "q"
	for _, d := range policy.Directions {
		a, b := policyChain(d, long), policyChain(d, longer)
		if len(a) != 127 || a == b || !strings.Contains(a, long.Namespace+"/") {
			t.Errorf("%s and %s", a, b)
		}
	}
	if have, want := podChain(policy.Ingress, policy.Key{Namespace: "shop", Name: "web-0"}), "ingress-vuhuyjrpza4dvmex-shop/web-0"; have != want {
		t.Errorf("%s, want %s: names must not change from one version to the next", have, want)
	}
	// Names that Kubernetes does not allow get valid ones all the same, each its own.
	odd := map[string]bool{}
	for _, key := range []policy.Key{
		{Namespace: "a/b", Name: "c"}, {Namespace: "a", Name: "b/c"}, {Namespace: "a", Name: "b\nc"}, {Namespace: "a", Name: "b c"}, {Namespace: "a", Name: "b_c"},
		{Namespace: strings.Repeat("n", 300), Name: "p"}, {Namespace: strings.Repeat("n", 300), Name: "q"}, {Namespace: "ä", Name: "\xff"}, {},
	} {
		name := podChain(policy.Egress, key)
		if !nftName.MatchString(name) || len(name) > 127 || odd[name] {
			t.Errorf("%q: %q", key, name)
		}
		odd[name] = true
	}
	// What concatenates alike is not the same.
	if peersSet(4, policy.Selector{Namespaces: "a", Pods: "b,c"}) == peersSet(4, policy.Selector{Namespaces: "a,b", Pods: "c"}) ||
		peersSet(4, policy.Selector{Namespace: "a"}) == peersSet(4, policy.Selector{Namespaces: "a"}) {
		t.Error("two selectors share a set")
	}
}

// FuzzNames: every name that Kubernetes allows gives names that nft reads as
// one word, that are short enough, and that nothing else has.
func FuzzNames(f *testing.F) {
	f.Add("shop", "web-0", "shop", "web-1")
	f.Add("a", "b.c", "a", "b-c")
	f.Add(strings.Repeat("n", 63), strings.Repeat("p", 253), strings.Repeat("n", 63), strings.Repeat("p", 252)+"x")
	f.Fuzz(func(t *testing.T, ns1, name1, ns2, name2 string) {
		for _, name := range []string{ns1, ns2} {
			if len(validation.IsDNS1123Label(name)) > 0 {
				return
			}
		}
		for _, name := range []string{name1, name2} {
			if len(validation.IsDNS1123Subdomain(name)) > 0 {
				return
			}
		}
		a, b := policy.Key{Namespace: ns1, Name: name1}, policy.Key{Namespace: ns2, Name: name2}
		seen := map[string]string{}
		for _, key := range []policy.Key{a, b} {
			for _, d := range policy.Directions {
				for kind, name := range map[string]string{"pod": podChain(d, key), "policy": policyChain(d, key)} {
					if len(name) > 127 || !nftName.MatchString(name) {
						t.Errorf("%q", name)
					}
					id := kind + d.String() + key.String()
					if other, taken := seen[name]; taken && other != id {
						t.Errorf("%s is the chain of %s and %s", name, other, id)
					}
					seen[name] = id
				}
			}
		}
	})
}
