package policy

import "maps"

// maxSize is how many sets and rules of the kernel one policy may take. A policy's rules
// change in one transaction, in which nothing else can, and the kernel takes some 40 µs for
// each: it finds the sets that they name by asking one after the other (nft_set_lookup in
// net/netfilter/nf_tables_api.c), and deletes those that were there. What is left is some
// 15 ms.
const maxSize = 600

// size follows how much of the kernel a policy's rules take.
type size struct {
	taken     int
	selectors map[Selector]struct{}
	names     map[NamedPort]struct{}
}

// clone is the same, to be counted on apart.
func (s *size) clone() size {
	return size{taken: s.taken, selectors: maps.Clone(s.selectors), names: maps.Clone(s.names)}
}

// sizeOf is how many sets and rules of the kernel a policy takes.
func sizeOf(p *Policy) int {
	s := size{selectors: map[Selector]struct{}{}, names: map[NamedPort]struct{}{}}
	for _, d := range Directions {
		for i := range p.Rules[d] {
			s.fits(&p.Rules[d][i])
		}
	}
	return s.taken
}

// fits takes a rule in, and reports whether there is room for it. It counts a set
// for each family of what may have both.
func (s *size) fits(r *Rule) bool {
	sets := 0
	for _, selector := range r.Peers {
		if _, known := s.selectors[selector]; !known {
			sets += 2
		}
	}
	for _, name := range r.NamedPorts {
		if _, known := s.names[name]; !known {
			sets += 2
		}
	}
	if len(r.Blocks) > 0 {
		sets += 2
	}
	switch n := len(r.Ports); {
	case n == 0:
	case SinglePorts(r.Ports):
		sets++
	default:
		sets += 1 + (n-1)/RangesPerSet
	}
	total := sets + r.walk()
	if s.taken+total > maxSize {
		return false
	}
	s.taken += total
	for _, selector := range r.Peers {
		s.selectors[selector] = struct{}{}
	}
	for _, name := range r.NamedPorts {
		s.names[name] = struct{}{}
	}
	return true
}
