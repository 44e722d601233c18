package policy

import (
	"cmp"
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
	// OfNodes says that no pods are meant, but the addresses of nodes: of those whose labels Nodes
	// selects, or if that is empty, of all. The other fields are empty then.
	OfNodes bool
	Nodes   string
	// Or has further alternatives in the same Namespace, as "namespaces;pods", separated by
	// "|": the selector means all that any of them means. Usually there is none (see unite).
	Or string
}

// String is how the selector reads in comments and logs.
func (s Selector) String() string {
	if s.Or == "" {
		return s.text()
	}
	var texts []string
	for _, alternative := range s.alternatives() {
		texts = append(texts, alternative.text())
	}
	return strings.Join(texts, " or ")
}

// text is how a selector without alternatives reads.
func (s Selector) text() string {
	if s.OfNodes {
		return "nodes{" + s.Nodes + "}"
	}
	if s.Namespace != "" {
		return "namespace " + s.Namespace + " pods{" + s.Pods + "}"
	}
	return "namespaces{" + s.Namespaces + "} pods{" + s.Pods + "}"
}

// The separators between alternatives, and between the parts of one. No label contains them.
const orSeparator, partSeparator = "|", ";"

// alternatives are the selectors without Or that together mean what the selector means. If it
// has no Or, that is the selector itself.
func (s Selector) alternatives() []Selector {
	all := []Selector{{Namespace: s.Namespace, Namespaces: s.Namespaces, Pods: s.Pods}}
	if s.Or == "" {
		return all
	}
	for _, text := range strings.Split(s.Or, orSeparator) {
		namespaces, pods, _ := strings.Cut(text, partSeparator)
		all = append(all, Selector{Namespace: s.Namespace, Namespaces: namespaces, Pods: pods})
	}
	return all
}

// further is how many alternatives it has besides itself.
func (s Selector) further() int {
	if s.Or == "" {
		return 0
	}
	return 1 + strings.Count(s.Or, orSeparator)
}

// maxAlternatives is how many selectors become one at most. When a selector comes into use, each
// of its alternatives is asked about each pod of the cluster at once: for 20,000 pods and this
// many alternatives that takes some 20 ms.
const maxAlternatives = 16

// unite makes few selectors of very many, so that a packet meets one set for each of the few
// instead of one for each of the many. If there are not very many they stay as they are, and
// share their sets with other policies. The selectors must be in order, each once.
func unite(selectors []Selector) (united []Selector) {
	// Those of nodes come last, and are not united with others.
	if first := slices.IndexFunc(selectors, func(s Selector) bool { return s.OfNodes }); first >= 0 {
		return slices.Concat(unite(selectors[:first]), selectors[first:])
	}
	if len(selectors) <= maxAlternatives {
		return selectors
	}
	// Those that ask for a label come first, so that they are united with each other. If just one
	// of several united selectors asks for no label, all pods must be looked at for all of them.
	asks := make(map[Selector]int, len(selectors))
	for _, s := range selectors {
		if asks[s] = 1; asksForLabel(s.Pods) {
			asks[s] = 0
		}
	}
	ordered := slices.Clone(selectors)
	slices.SortStableFunc(ordered, func(a, b Selector) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(asks[a], asks[b]))
	})
	for len(ordered) > 0 {
		first := ordered[0]
		n := 1
		var or []string
		for ; n < min(len(ordered), maxAlternatives) && ordered[n].Namespace == first.Namespace; n++ {
			or = append(or, ordered[n].Namespaces+partSeparator+ordered[n].Pods)
		}
		first.Or = strings.Join(or, orSeparator)
		united, ordered = append(united, first), ordered[n:]
	}
	slices.SortFunc(united, Selector.Compare)
	return united
}

// Compare is the order of selectors.
func (s Selector) Compare(other Selector) int {
	if s.OfNodes != other.OfNodes {
		if s.OfNodes {
			return 1
		}
		return -1
	}
	return cmp.Or(strings.Compare(s.Nodes, other.Nodes), strings.Compare(s.Namespace, other.Namespace), strings.Compare(s.Namespaces, other.Namespaces),
		strings.Compare(s.Pods, other.Pods), strings.Compare(s.Or, other.Or))
}

// matcher is one of a Selector's alternatives, ready to be asked.
type matcher struct {
	Selector
	namespaces, pods labels.Selector
}

// matcherOf prepares a selector without alternatives. Its texts must be those of canonical.
func matcherOf(s Selector) *matcher {
	return &matcher{Selector: s, namespaces: parseCanonical(s.Namespaces), pods: parseCanonical(s.Pods)}
}

// matchersOf prepares a selector of pods. One of nodes means no pods.
func matchersOf(s Selector) (matchers []*matcher) {
	if s.OfNodes {
		return nil
	}
	for _, alternative := range s.alternatives() {
		matchers = append(matchers, matcherOf(alternative))
	}
	return matchers
}

// meansAll reports whether there is one matcher that means all of the pods. The function object
// returns a pod's namespace.
func meansAll(matchers []*matcher, pods []*Pod, object func(*Pod) *Namespace) bool {
	return slices.ContainsFunc(matchers, func(m *matcher) bool {
		return !slices.ContainsFunc(pods, func(pod *Pod) bool { return !m.matches(pod, object(pod)) })
	})
}

func parseCanonical(text string) labels.Selector {
	selector, err := labels.Parse(text)
	if err != nil { // the text is not canonical's: match nothing, never everything
		return labels.Nothing()
	}
	return selector
}

// inNamespace reports whether the selector looks in that namespace at all. If ns is nil, the
// namespace is not known, or was deleted: a selector of namespaces, even the empty one, does
// not select it then.
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

// required returns a label, as "key=value", that every pod that the selector means must have, or
// "" if there is no such label.
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

// asks returns a label, as "key=value", or the key of a label, that every pod that the selector
// means must have, or "" if there is none.
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

// asksForLabel reports whether a canonical text asks for a label, or the key of one, that
// pods must have (see matcher.asks). To parse the text takes ten times as long.
func asksForLabel(text string) bool {
	for text != "" {
		requirement, remaining, _ := strings.Cut(text, ",")
		if strings.Contains(requirement, "(") { // key in (a,b)
			requirement, remaining, _ = strings.Cut(text, ")")
			remaining = strings.TrimPrefix(remaining, ",")
		}
		if !strings.HasPrefix(requirement, "!") && !strings.Contains(requirement, "!=") && !strings.Contains(requirement, " notin (") {
			return true
		}
		text = remaining
	}
	return false
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
		texts = append(texts, canonicalRequirement(&r))
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), ","), nil
}

func canonicalRequirement(r *labels.Requirement) string {
	op := r.Operator()
	if op != selection.In && op != selection.NotIn {
		return r.String()
	}
	values := slices.Clone(r.ValuesUnsorted())
	slices.Sort(values)
	values = slices.Compact(values)
	if op == selection.In && len(values) == 1 {
		return r.Key() + "=" + values[0]
	}
	return r.Key() + " " + string(op) + " (" + strings.Join(values, ",") + ")"
}
