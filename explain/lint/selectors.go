package lint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// linter looks at one policy after another.
type linter struct {
	*world
	found []Finding
}

// add notes a finding.
func (l *linter) add(w *written, rule Rule, severity Severity, path, format string, args ...any) {
	l.found = append(l.found, Finding{Rule: rule, Severity: severity, Object: w.object, Staged: l.isStaged(w), Path: path, Message: fmt.Sprintf(format, args...)})
}

// addNothing notes that something means nobody. In files there may simply be nobody yet, so that it is
// worth a word only if somebody else is probably meant.
func (l *linter) addNothing(w *written, rule Rule, severity Severity, path, format string, args ...any) {
	if severity == Warning || l.running {
		l.add(w, rule, severity, path, format, args...)
	}
}

// selectors finds selectors that mean nobody: the policy's own, and its peers'. It returns which, by the
// paths of the subject and of the peers.
func (l *linter) selectors(w *written) (nobody map[string]Severity) {
	nobody = map[string]Severity{}
	if field, message, severity, nothing := l.nothing(w, &w.subject); nothing {
		nobody[w.subject.path] = severity
		l.addNothing(w, SelectsNothing, severity, field, "the policy selects nothing: %s", message)
	}
	for _, r := range w.rules {
		for i, p := range r.peers {
			switch {
			case p.nodes != nil:
				if severity, nothing := l.nodesSelector(w, p); nothing {
					nobody[p.path] = severity
				}
			case p.pods != nil:
				field, message, severity, nothing := l.nothing(w, p.pods)
				if !nothing {
					continue
				}
				nobody[p.path] = severity
				if said, split := l.split(r.peers, i); split {
					nobody[p.path] = Warning
					l.add(w, SplitPeer, Warning, field, "%s", said)
					continue
				}
				l.addNothing(w, PeerMatchesNothing, severity, field, "the peer means nobody: %s", message)
			}
		}
	}
	return nobody
}

// nothing reports whether nobody is meant, for sure, and by which field; and says it in words, with the
// nearest that is there.
func (l *linter) nothing(w *written, p *pods) (field, message string, severity Severity, is bool) {
	if p.namespace == "" && len(l.namespacesOf(p.namespaces)) == 0 {
		if message, severity, is = l.noNamespace(p.namespaces); is {
			return p.namespacePath, message, severity, true
		}
		return "", "", "", false
	}
	if !l.none(l.seen, p) || l.unknown(p) || !l.none(l.ended, p) {
		return "", "", "", false
	}
	if n, _ := l.count(l.host, p); n > 0 && !p.selected.selectsAll() {
		return p.path, fmt.Sprintf("%s with %s, but on the node's own network: to policies its packets are the node's",
			counted(n, "pod"), p.selected), Warning, true
	}
	message, severity = l.noPod(w, p)
	return p.path, message, severity, true
}

// noNamespace says that a selector selects no namespace.
func (l *linter) noNamespace(s selector) (message string, severity Severity, is bool) {
	if len(l.names) == 0 {
		return "", "", false // namespaces are not known at all
	}
	all := make(few, 0, len(l.names))
	for _, name := range l.names {
		all = append(all, l.namespaces[name])
	}
	message = fmt.Sprintf("no namespace has %s", s)
	if near, found := slipIn(s, all); found {
		return fmt.Sprintf("%s: %s", message, near.said("namespace")), Warning, true
	}
	return message, Info, true
}

// noPod says that no pod is meant, though there are such namespaces.
func (l *linter) noPod(w *written, p *pods) (message string, severity Severity) {
	message = "there are no " + p.String()
	if p.selected.selectsAll() {
		return message, Info
	}
	if near, found := slipIn(p.selected, podLabels{l.world, l.meant(p)}); found {
		return fmt.Sprintf("%s: %s", message, near.said("pod")), Warning
	}
	n, by := l.count(l.seen, p.everywhere())
	if n == 0 {
		return message, Info
	}
	namespaces := slices.Sorted(maps.Keys(by))
	slices.SortStableFunc(namespaces, func(a, b string) int { return cmp.Compare(by[b], by[a]) })
	at := namespaces[0]
	message = fmt.Sprintf("%s, but %s in namespace %s", message, counted(by[at], "pod"), at)
	// Where the same manifests are used in several namespaces, such as those of stages, each has its
	// policy of this name, and one may have no pods for a while.
	if severity = Warning; len(by) > 1 || l.policies[at][w.object.Name] {
		severity = Info
	}
	switch {
	case p.path == w.subject.path && w.np != nil:
		return message + "; is the policy in the wrong namespace?", severity
	case p.namespace != "":
		return message + "; to mean them, give the same list item a namespaceSelector too", severity
	}
	return message + "; does the selector of namespaces leave them out?", severity
}

// split reports whether a peer with a podSelector alone, which means nobody, and a peer with a
// namespaceSelector alone are probably meant to be one.
func (l *linter) split(peers []peer, i int) (message string, is bool) {
	p := peers[i].pods
	if p.namespace == "" || p.selected.selectsAll() {
		return "", false
	}
	for _, other := range peers {
		if other.pods == nil || other.pods.namespace != "" || !other.pods.selected.selectsAll() || other.pods.path == other.pods.namespacePath {
			continue
		}
		both := &pods{namespaces: other.pods.namespaces, selected: p.selected}
		if n, _ := l.count(l.seen, both); n > 0 {
			return fmt.Sprintf("there are no %s; written as one list item with the namespaceSelector of %s, without a dash between the two, it would mean %s of namespaces with %s",
				p, other.path, counted(n, "pod"), orEverything(other.pods.namespaces)), true
		}
	}
	return "", false
}

func orEverything(s selector) string {
	if s.selectsAll() {
		return "any labels"
	}
	return s.String()
}

// nodesSelector finds a selector of nodes that selects none.
func (l *linter) nodesSelector(w *written, p peer) (severity Severity, nothing bool) {
	if len(l.nodes) == 0 {
		return "", false // nodes are not known at all
	}
	all := make(few, 0, len(l.nodes))
	for _, node := range l.nodes {
		set := labels.Set{}
		for key, value := range node.Labels.All() {
			set[key] = value
		}
		if all = append(all, set); p.nodes.selects(set) {
			return "", false
		}
	}
	message := fmt.Sprintf("the peer means nobody: no node has %s", *p.nodes)
	severity = Info
	if near, found := slipIn(*p.nodes, all); found {
		severity, message = Warning, fmt.Sprintf("%s: %s", message, near.said("node"))
	}
	l.addNothing(w, PeerMatchesNothing, severity, p.path+".nodes", "%s", message)
	return severity, true
}

// allowsNothing finds a direction of which every rule means nobody. Only rules that accept count: where
// all else is closed, pods then get nothing.
func (l *linter) allowsNothing(w *written, nobody map[string]Severity) {
	if w.np == nil {
		return
	}
	for _, side := range directions {
		rules, severity, all := 0, Info, true
		for _, r := range w.rules {
			if r.direction != side.direction {
				continue
			}
			rules++
			all = all && len(r.peers) > 0
			for _, p := range r.peers {
				of, is := nobody[p.path]
				all = all && is
				if of == Warning {
					severity = Warning
				}
			}
		}
		if rules > 0 && all {
			l.addNothing(w, AllowsNothing, severity, side.path, "no rule here means anybody, so that the policy's pods get nothing in this direction from it")
		}
	}
}

// namespace finds a policy in a namespace that is not there, or of which files have no pods, though there
// is another of nearly that name. It is for policies whose own selector says nothing of it.
func (l *linter) namespace(w *written, nobody map[string]Severity) {
	if w.np == nil || nobody[w.subject.path] == Warning || len(l.names) == 0 || len(l.seen.byNamespace[w.np.Namespace]) > 0 || l.unread[w.np.Namespace] > 0 {
		return
	}
	if _, known := l.namespaces[w.np.Namespace]; known && l.running {
		return // an empty namespace is nobody's mistake
	}
	populated := slices.DeleteFunc(slices.Clone(l.names), func(name string) bool { return len(l.seen.byNamespace[name]) == 0 })
	if near, found := nearestWord(w.np.Namespace, populated); found && !l.policies[near][w.np.Name] {
		l.add(w, SelectsNothing, Warning, "metadata.namespace", "there are no pods of namespace %s; did you mean namespace %s?", w.np.Namespace, near)
	}
}
