package policy

import "maps"

// maxSize is how many sets and rules of the kernel one policy may take. The more sets there are,
// the longer the kernel takes for everything that names a set: it asks one set after the other
// for its name (nft_set_lookup in net/netfilter/nf_tables_api.c).
const maxSize = 2000

// size follows how much of the kernel a policy's rules take.
type size struct {
	taken     int
	selectors map[Selector]struct{}
	names     map[NamedPort]struct{}
}

func newSize() size {
	return size{selectors: map[Selector]struct{}{}, names: map[NamedPort]struct{}{}}
}

// sizeOf is how many sets and rules of the kernel a policy takes.
func sizeOf(p *Policy) int {
	s, none := newSize(), newSize()
	for _, d := range Directions {
		for i := range p.Rules[d] {
			s.add(&p.Rules[d][i], &none)
		}
	}
	return s.taken
}

// fits takes rules in if there is room for them, and reports whether there was.
func (s *size) fits(rules []Rule) bool {
	more := newSize()
	for i := range rules {
		if more.add(&rules[i], s); s.taken+more.taken > maxSize {
			return false
		}
	}
	s.taken += more.taken
	maps.Copy(s.selectors, more.selectors)
	maps.Copy(s.names, more.names)
	return true
}

// add counts a rule, except the selectors and port names that are counted in before. It counts a
// set for each family for what may have addresses of both. Each further alternative of a selector
// counts as well, because pods are compared with it.
func (s *size) add(r *Rule, before *size) {
	s.taken += r.walk()
	for _, selector := range r.Peers {
		_, known := s.selectors[selector]
		if _, counted := before.selectors[selector]; !known && !counted {
			s.taken += 2 + selector.further()
			s.selectors[selector] = struct{}{}
		}
	}
	for _, name := range r.NamedPorts {
		_, known := s.names[name]
		if _, counted := before.names[name]; !known && !counted {
			s.taken += 2
			s.names[name] = struct{}{}
		}
	}
	if len(r.Blocks) > 0 {
		s.taken += 2
	}
	if len(r.Ports) > 0 {
		s.taken++
	}
}
