package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
)

// opened is what is open for some pairs of units.
type opened struct {
	family         string
	ports, unknown []policy.PortRange
	pairs          int
}

// key is the same for the same answers.
func (o opened) key() string { return fmt.Sprint(o.family, o.ports, o.unknown) }

// openings is what is open from one party to another in the only cluster of a survey: each distinct answer
// once, those for most pairs first. Pairs for which nothing is open are among them, with no ports. It is
// nothing if no pair has addresses of one family.
func (s *survey) openings(from, to member) (all []Opening) {
	var found []opened
	total := 0
	at := map[string]int{}
	for _, a := range from.classes {
		for _, b := range to.classes {
			for _, pair := range samples(a, b) {
				answers := s.openBetween(pair.from, pair.to)
				if len(answers) > 0 {
					total += pair.pairs
				}
				for _, answer := range answers {
					key := answer.key()
					place, has := at[key]
					if !has {
						place = len(found)
						at[key], found = place, append(found, answer)
					}
					found[place].pairs += pair.pairs
				}
			}
		}
	}
	slices.SortStableFunc(found, func(a, b opened) int {
		return cmp.Or(cmp.Compare(b.pairs, a.pairs), cmp.Compare(a.key(), b.key()))
	})
	for _, o := range found {
		all = append(all, Opening{Family: o.family, Open: openPorts(o.ports), Unknown: openPorts(o.unknown), Pairs: o.pairs, Of: total, Partly: o.pairs < total})
	}
	return all
}

// openBetween is what is open from one unit to another: one answer, or one for each address family where
// they differ.
func (s *survey) openBetween(from, to unit) (all []opened) {
	for _, way := range s.crossings(0, from, to) {
		o := opened{family: familyOf(way.packet)}
		o.ports, o.unknown = way.open()
		all = append(all, o)
	}
	if len(all) > 0 && !slices.ContainsFunc(all, func(o opened) bool {
		return !slices.Equal(o.ports, all[0].ports) || !slices.Equal(o.unknown, all[0].unknown)
	}) {
		all = all[:1]
		all[0].family = ""
	}
	return all
}

func familyOf(p policy.Packet) string { return familyName(p.Src) }

// familyName is the family of an address, as the API names it.
func familyName(addr netip.Addr) string {
	if addr.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
