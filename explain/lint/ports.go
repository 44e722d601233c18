package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
)

// namedPorts finds ports that are named and that no pod has which the rule is about: of ingress rules
// the policy's own pods, of egress rules those that its peers mean.
func (l *linter) namedPorts(w *written) {
	for _, r := range w.rules {
		if !slices.ContainsFunc(r.ports, func(p port) bool { return p.name != "" }) {
			continue
		}
		destinations, whose := l.destinations(w, r)
		if destinations == nil {
			continue
		}
		for _, p := range r.ports {
			if p.name != "" {
				l.namedPort(w, p, destinations, whose)
			}
		}
	}
}

// destinations are the pods that packets of a rule go to; nil: they are not known. whose says it in words.
func (l *linter) destinations(w *written, r rule) (all []*pods, whose string) {
	if r.direction == policy.Ingress {
		return []*pods{&w.subject}, "the policy's pods"
	}
	for _, p := range r.peers {
		switch {
		case p.pods != nil:
			all = append(all, p.pods)
		case len(p.blocks) > 0: // the addresses in it may be any pods'
			all = append(all, &pods{})
		}
	}
	if len(r.peers) == 0 {
		all = []*pods{{}}
	}
	return all, "the pods that the peers mean"
}

func (l *linter) namedPort(w *written, p port, destinations []*pods, whose string) {
	names, others, meant := map[string]bool{}, map[policy.Protocol]bool{}, 0
	for _, to := range destinations {
		if l.unknown(to) {
			return
		}
		for of := range l.find(l.seen, to) {
			for _, pod := range of.pods {
				meant++
				for _, has := range pod.Ports {
					if has.Name == p.name {
						if p.protocol == 0 || has.Protocol == p.protocol {
							return
						}
						others[has.Protocol] = true
					}
					if p.protocol == 0 || has.Protocol == p.protocol {
						names[has.Name] = true
					}
				}
			}
		}
	}
	all := len(destinations) == 1 && destinations[0].namespace == "" && destinations[0].selected.selectsAll() && destinations[0].namespaces.selectsAll()
	if meant == 0 || all && !l.running { // files may leave out the pods that have it
		return
	}
	message, near := unnamed(p, whose, names, others)
	elsewhere := slices.ContainsFunc(destinations, func(to *pods) bool { return to.namespace == "" })
	if elsewhere && !l.running && !near { // files may leave out namespaces
		return
	}
	l.add(w, NamedPort, Warning, p.path, "%s", message)
}

// unnamed says that nobody has a port of that name, and reports whether there is one that is probably meant.
func unnamed(p port, whose string, names map[string]bool, others map[policy.Protocol]bool) (message string, near bool) {
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	message = fmt.Sprintf("none of %s has a port named %q", whose, p.name)
	if p.protocol != 0 {
		message += " of protocol " + p.protocol.String()
	}
	if len(others) > 0 {
		var protocols []string
		for protocol := range others {
			protocols = append(protocols, protocol.String())
		}
		slices.Sort(protocols)
		return fmt.Sprintf("%s: it is one of %s there; say protocol: %s", message, strings.Join(protocols, " and "), protocols[0]), true
	}
	if word, found := nearestWord(p.name, sorted); found {
		return fmt.Sprintf("%s; did you mean %q?", message, word), true
	}
	switch len(sorted) {
	case 0:
		return message + ": they name no such ports at all; give a number", false
	case 1, 2, 3, 4, 5:
		return message + ": they have " + quoted(sorted), false
	}
	return fmt.Sprintf("%s: they have %s and %d more", message, quoted(sorted[:5]), len(sorted)-5), false
}

func quoted(names []string) string {
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(texts, ", ")
}
