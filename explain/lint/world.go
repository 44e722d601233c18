package lint

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/podfence/podfence/policy"
)

// class are pods of one namespace that have the same labels: to selectors they are alike.
type class struct {
	namespace string
	labels    policy.Labels
	pods      []*policy.Pod
}

type classKey struct {
	namespace string
	labels    policy.Labels
}

type label struct{ key, value string }

// pool is a set of pods, in classes, by namespace and by label. Which pods a selector means is found by
// the rarest of its labels, so that it does not take a look at every pod for every policy.
type pool struct {
	classes     []*class
	byKey       map[classKey]*class
	byNamespace map[string][]*class
	byLabel     map[label][]*class
	byLabelKey  map[string][]*class
	// values are those that labels of a key have, each once.
	values map[string][]string
}

// poolOf takes pods in. Those whose labels were not kept must not be among them.
func poolOf(all []*policy.Pod) *pool {
	p := &pool{byKey: map[classKey]*class{}, byNamespace: map[string][]*class{}, byLabel: map[label][]*class{}, byLabelKey: map[string][]*class{}, values: map[string][]string{}}
	for _, pod := range all {
		key := classKey{pod.Namespace, pod.Labels}
		of := p.byKey[key]
		if of == nil {
			of = &class{namespace: pod.Namespace, labels: pod.Labels}
			p.byKey[key] = of
			p.add(of)
		}
		of.pods = append(of.pods, pod)
	}
	return p
}

func (p *pool) add(of *class) {
	p.classes = append(p.classes, of)
	p.byNamespace[of.namespace] = append(p.byNamespace[of.namespace], of)
	for key, value := range of.labels.All() {
		at := label{key, value}
		if len(p.byLabel[at]) == 0 {
			p.values[key] = append(p.values[key], value)
		}
		p.byLabel[at] = append(p.byLabel[at], of)
		p.byLabelKey[key] = append(p.byLabelKey[key], of)
	}
}

// candidates are classes among which are all that a selector selects, as few as can be told at once.
func (p *pool) candidates(s selector) []*class {
	found := p.classes
	for _, r := range s.requirements {
		few, told := p.byLabelKey[r.Key()], false
		if value, one := soleValue(r); one {
			few, told = p.byLabel[label{r.Key(), value}], true
		} else if r.Operator() == "in" || r.Operator() == "exists" {
			told = true
		}
		if told && len(few) < len(found) {
			found = few
		}
	}
	return found
}

// world is a cluster, ready to be asked whom selectors mean.
type world struct {
	// seen are the pods that policies are about. ended have ended, and host are on their node's network.
	seen, ended, host *pool
	namespaces        map[string]labels.Set
	// names are the namespaces' names in order.
	names []string
	nodes []policy.Node
	// unread is how many pods of a namespace there are whose labels are not known.
	unread map[string]int
	// running: what is not there is really not there, and is not only left out of some files.
	running bool
	// selected are which namespaces a selector selects, by its text.
	selected map[string]map[string]bool
	// staged are the namespaces whose NetworkPolicies are staged.
	staged map[string]bool
	// policies are the names that NetworkPolicies of a namespace have.
	policies map[string]map[string]bool
}

func newWorld(namespaces []policy.Namespace, nodes []policy.Node, seen, ended, host []*policy.Pod, running bool) *world {
	w := &world{
		ended: poolOf(ended), host: poolOf(host), nodes: nodes, running: running,
		namespaces: map[string]labels.Set{}, unread: map[string]int{}, selected: map[string]map[string]bool{}, policies: map[string]map[string]bool{}, staged: map[string]bool{},
	}
	for _, ns := range namespaces {
		if _, known := w.namespaces[ns.Name]; !known {
			w.names = append(w.names, ns.Name)
		}
		w.namespaces[ns.Name], w.staged[ns.Name] = ns.Labels, ns.Staged
	}
	slices.Sort(w.names)
	read := make([]*policy.Pod, 0, len(seen))
	for _, pod := range seen {
		if pod.Unread {
			w.unread[pod.Namespace]++
			continue
		}
		read = append(read, pod)
	}
	slices.SortFunc(read, func(a, b *policy.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	w.seen = poolOf(read)
	return w
}

// meant reports which namespaces are meant.
func (w *world) meant(p *pods) func(namespace string) bool {
	if p.namespace != "" {
		return func(namespace string) bool { return namespace == p.namespace }
	}
	in := w.namespacesOf(p.namespaces)
	return func(namespace string) bool { return in[namespace] }
}

// namespacesOf are the namespaces that a selector selects.
func (w *world) namespacesOf(s selector) map[string]bool {
	if in, known := w.selected[s.text]; known {
		return in
	}
	in := map[string]bool{}
	for _, name := range w.names {
		if s.selects(w.namespaces[name]) {
			in[name] = true
		}
	}
	w.selected[s.text] = in
	return in
}

// find are the classes of a pool that are meant.
func (w *world) find(among *pool, p *pods) iter.Seq[*class] {
	in, candidates := w.meant(p), among.candidates(p.selected)
	if own := among.byNamespace[p.namespace]; p.namespace != "" && len(own) < len(candidates) {
		candidates = own
	}
	return func(yield func(*class) bool) {
		for _, of := range candidates {
			if in(of.namespace) && p.selected.selects(of.labels) && !yield(of) {
				return
			}
		}
	}
}

// none reports whether nobody of a pool is meant.
func (w *world) none(among *pool, p *pods) bool {
	for range w.find(among, p) {
		return false
	}
	return true
}

// unknown reports whether pods may be meant whose labels are not known.
func (w *world) unknown(p *pods) bool {
	in := w.meant(p)
	for namespace := range w.unread {
		if in(namespace) {
			return true
		}
	}
	return false
}

// count says how many pods of a pool a selector means in each namespace.
func (w *world) count(among *pool, p *pods) (all int, by map[string]int) {
	by = map[string]int{}
	for of := range w.find(among, p) {
		all += len(of.pods)
		by[of.namespace] += len(of.pods)
	}
	return all, by
}

// everywhere are pods of these labels in all namespaces that there are.
func (p *pods) everywhere() *pods { return &pods{selected: p.selected} }

// String says in words which pods are meant.
func (p *pods) String() string {
	var texts []string
	if !p.selected.selectsAll() {
		texts = append(texts, "with "+p.selected.String())
	}
	switch {
	case p.namespace != "":
		texts = append(texts, "of namespace "+p.namespace)
	case !p.namespaces.selectsAll():
		texts = append(texts, "of namespaces with "+p.namespaces.String())
	}
	return strings.Join(append([]string{"pods"}, texts...), " ")
}
