package policy

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// Selector says which pods a policy means, in canonical text: two policies
// that mean the same pods in the same words share one Selector, hence one
// kernel set.
type Selector struct {
	// Namespace, when set, is the only namespace that it looks in.
	Namespace string
	// Namespaces selects namespaces by label when Namespace is empty; empty, it
	// selects all.
	Namespaces string
	// Pods selects pods by label; empty, it selects all.
	Pods string
}

// String is how the selector reads in comments and logs.
func (s Selector) String() string {
	if s.Namespace != "" {
		return fmt.Sprintf("namespace %s pods{%s}", s.Namespace, s.Pods)
	}
	return fmt.Sprintf("namespaces{%s} pods{%s}", s.Namespaces, s.Pods)
}

func compareSelector(a, b Selector) int { return strings.Compare(a.String(), b.String()) }

// matcher is a Selector, ready to be asked.
type matcher struct {
	Selector
	namespaces, pods labels.Selector
}

// matcherOf prepares a selector whose texts canonical has written.
func matcherOf(s Selector) matcher {
	return matcher{Selector: s, namespaces: parseCanonical(s.Namespaces), pods: parseCanonical(s.Pods)}
}

func parseCanonical(text string) labels.Selector {
	selector, err := labels.Parse(text)
	if err != nil { // not canonical's text: match nothing, never everything
		return labels.Nothing()
	}
	return selector
}

// inNamespace reports whether the selector looks in that namespace at all. A
// namespace that is not known, or no more (ns is nil), has no labels to be
// selected by, not even by the empty selector.
func (m *matcher) inNamespace(name string, ns *Namespace) bool {
	if m.Namespace != "" {
		return m.Namespace == name
	}
	return ns != nil && m.namespaces.Matches(labels.Set(ns.Labels))
}

// matches reports whether the selector means a pod of that namespace.
func (m *matcher) matches(pod *Pod, ns *Namespace) bool {
	return m.inNamespace(pod.Namespace, ns) && (m.Pods == "" || !pod.Unread && m.pods.Matches(pod.Labels))
}

// required returns a label that every pod must have for the selector to mean
// it, as "key=value", or "" where there is none to go by.
func (m *matcher) required() string {
	requirements, _ := m.pods.Requirements()
	for _, r := range requirements {
		if op := r.Operator(); op == selection.Equals || op == selection.In && r.Values().Len() == 1 {
			value, _ := r.Values().PopAny()
			return r.Key() + "=" + value
		}
	}
	return ""
}

// asks returns a label, as "key=value", or the key of one, that every pod must have for the
// selector to mean it; "" where it asks for none.
func (m *matcher) asks() string {
	if label := m.required(); label != "" {
		return label
	}
	requirements, _ := m.pods.Requirements()
	for _, r := range requirements {
		switch r.Operator() {
		case selection.In, selection.Exists, selection.GreaterThan, selection.LessThan:
			return r.Key()
		}
	}
	return ""
}

// canonical writes a label selector so that equal selectors read the same:
// requirements sorted and each once, "key in (v)" as "key=v".
func canonical(ls *metav1.LabelSelector) (string, error) {
	selector, err := metav1.LabelSelectorAsSelector(ls)
	if err != nil {
		return "", err
	}
	requirements, selectable := selector.Requirements()
	if !selectable {
		return "", fmt.Errorf("selects nothing")
	}
	var texts []string
	for _, r := range requirements {
		op, values := r.Operator(), r.Values().List() // sorted, each once
		if op == selection.In && len(values) == 1 {
			op = selection.Equals
		}
		same, err := labels.NewRequirement(r.Key(), op, values)
		if err != nil {
			return "", err
		}
		texts = append(texts, same.String())
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), ","), nil
}
