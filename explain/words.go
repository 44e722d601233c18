package explain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podfence/podfence/policy/spelling"
)

// missedLabels is what of a selector labels do not meet, in order, with the label that comes nearest. who
// has the labels, such as "the pod".
func missedLabels(s *metav1.LabelSelector, path string, has map[string]string, who string) (failed []mismatch) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return []mismatch{{Mismatch{path, fmt.Sprintf("it cannot be read, so that it means nobody: %v", err)}, 9}}
	}
	if selector.Matches(labels.Set(has)) {
		return nil
	}
	for _, key := range sortedKeys(s.MatchLabels) {
		want := s.MatchLabels[key]
		if value, is := has[key]; !is || value != want {
			words, distance := missedLabel(key, want, has, who)
			failed = append(failed, mismatch{Mismatch{fmt.Sprintf("%s.matchLabels[%s]", path, key), words}, distance})
		}
	}
	for i, e := range s.MatchExpressions {
		one, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{e}})
		if err != nil || one.Matches(labels.Set(has)) {
			continue
		}
		failed = append(failed, mismatch{Mismatch{fmt.Sprintf("%s.matchExpressions[%d]", path, i), missedExpression(e, has, who)}, 2})
	}
	return failed
}

// missedLabel says what labels have in place of one that is wanted.
func missedLabel(key, want string, has map[string]string, who string) (words string, distance int) {
	wanted := fmt.Sprintf("label %s=%s: ", key, want)
	if value, is := has[key]; is {
		return fmt.Sprintf("%s%s has %s=%s", wanted, who, key, value), 1 + min(spelling.Distance(value, want), 3)
	}
	for _, other := range sortedKeys(has) {
		if has[other] == want && spelling.Distance(other, key) <= 2 {
			return fmt.Sprintf("%s%s has %s=%s", wanted, who, other, want), 2
		}
	}
	return fmt.Sprintf("%s%s has no label %s", wanted, who, key), 4
}

// missedExpression says what labels have in place of what an expression wants.
func missedExpression(e metav1.LabelSelectorRequirement, has map[string]string, who string) string {
	value, is := has[e.Key]
	what := fmt.Sprintf("has %s=%s", e.Key, value)
	if !is {
		what = "has no label " + e.Key
	}
	switch e.Operator {
	case metav1.LabelSelectorOpIn:
		return fmt.Sprintf("label %s in (%s): %s %s", e.Key, strings.Join(e.Values, ", "), who, what)
	case metav1.LabelSelectorOpNotIn:
		return fmt.Sprintf("label %s not in (%s): %s %s", e.Key, strings.Join(e.Values, ", "), who, what)
	case metav1.LabelSelectorOpDoesNotExist:
		return fmt.Sprintf("label %s must not be there: %s %s", e.Key, who, what)
	}
	return fmt.Sprintf("label %s must be there: %s %s", e.Key, who, what)
}

// text is what numbers an entry of ports has, as people write them.
func (p port) text() string {
	switch {
	case p.all:
		return ""
	case p.first == p.last:
		return strconv.Itoa(int(p.first))
	}
	return fmt.Sprintf("%d-%d", p.first, p.last)
}

// full is a port with its protocol, or a protocol without ports.
func (p Port) full() string {
	if p.Number == 0 {
		return p.Protocol.String()
	}
	return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
}

// declaredText lists the named ports of a pod, behind a semicolon.
func declaredText(pod *corev1.Pod) string {
	var texts []string
	for _, declared := range declaredPorts(pod) {
		texts = append(texts, fmt.Sprintf("%s (%s)", declared.Name, Port{Protocol: declared.Protocol, Number: declared.Number}.full()))
	}
	if len(texts) == 0 {
		return "; none of its ports has a name"
	}
	return "; it declares " + strings.Join(texts, ", ")
}

// String names an end as people write it.
func (e End) String() string {
	switch e.Kind {
	case KindAddress:
		return e.Address.String()
	case KindNode:
		return "node/" + e.Name
	}
	return e.Namespace + "/" + e.Name
}

// list joins texts, or says that there are none.
func list(texts []string, none string) string {
	if len(texts) == 0 {
		return none
	}
	return strings.Join(texts, ", ")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// nearLabel is the distance up to which a label looks as if it was misspelt.
const nearLabel = 3
