package policy_test

import (
	"flag"
	"math/rand"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

var texts = flag.Int("texts", 4000, "odd texts that are read in both ways")

// TestTextsAreReadAlike: Judge has its own code to read texts, and it reads every text as the rest
// of the package does.
func TestTextsAreReadAlike(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	starts := []string{
		"10.244.1.2", "010.244.001.002", "fd00:244:0:1::2", "::ffff:10.244.1.2", "::ffff:010.1.1.01", "::", "::1.2.3.4", "1:2:3:4:5:6:7:8", "0001:0:00::1", "fe80::1%eth0",
	}
	lengths := []string{"", "/0", "/8", "/08", "/24", "/32", "/33", "/64", "/95", "/96", "/104", "/128", "/129", "/256", "/-1", "/+1", "/1_6", "//8", "/8 ", "/"}
	for range *texts {
		addr := garbled(r, starts[r.Intn(len(starts))], "0123456789abcfx:.%/ ")
		if !policy.SameAddr(addr) {
			t.Errorf("the address %q is read differently", addr)
		}
		if cidr := addr + lengths[r.Intn(len(lengths))]; !policy.SameRange(cidr) {
			t.Errorf("the range %q is read differently", cidr)
		}
	}
	keys := []string{"app", "tier", "example.com/app", "Example.com/app", "a/b/c", "/app", "app/", strings.Repeat("k", 63), strings.Repeat("k", 64), strings.Repeat("p", 253) + "/k", strings.Repeat("p", 254) + "/k", ""}
	values := []string{"", "a", "b", "a b", "-a", "a.b_c-d", strings.Repeat("v", 63), strings.Repeat("v", 64), "ä", "a,b", "a\n"}
	one := func(from []string) string { return garbled(r, from[r.Intn(len(from))], "aB-_./ ") }
	for range *texts {
		labels := map[string]string{}
		s := &metav1.LabelSelector{MatchLabels: map[string]string{}}
		asked := keys[:len(keys):len(keys)]
		for range r.Intn(3) {
			key, value := one(keys), one(values)
			if labels[key] = value; r.Intn(2) == 0 {
				s.MatchLabels[key] = value
			}
			asked = append(asked, key, key, key) // mostly labels that are there
		}
		for range r.Intn(3) {
			e := metav1.LabelSelectorRequirement{
				Key: one(asked), Operator: []metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist", "in", "Gt", ""}[r.Intn(7)],
			}
			for range r.Intn(3) {
				e.Values = append(e.Values, one(values))
			}
			s.MatchExpressions = append(s.MatchExpressions, e)
		}
		if !policy.SameSelector(s, labels) {
			t.Errorf("the selector %v means labels %q to one of the two", s, labels)
		}
	}
}

// garbled is a text, mostly as it is, else with a few letters more, less or changed.
func garbled(r *rand.Rand, text, letters string) string {
	for range max(0, r.Intn(6)-2) {
		at, letter := r.Intn(len(text)+1), string(letters[r.Intn(len(letters))])
		switch end := min(at+1, len(text)); r.Intn(3) {
		case 0:
			text = text[:at] + letter + text[at:]
		case 1:
			text = text[:at] + letter + text[end:]
		default:
			text = text[:at] + text[end:]
		}
	}
	return text
}
