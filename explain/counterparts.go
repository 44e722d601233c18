package explain

import (
	"cmp"
	"slices"
)

// inBoth are the parties inside a cluster that are there before and after. The others are noted.
func (s *survey) inBoth(d *Diff) (all []member) {
	var of [2]map[Party][]end
	for i, x := range s.clusters {
		pods, left := x.podsByName(x.cluster.Pods)
		of[i] = byParty(pods)
		d.Notes = left // of the last cluster, which is the one after the change
		if nodes := x.nodeEnds(); len(nodes) > 0 {
			of[i][Party{Kind: KindNodes}] = nodes
		}
	}
	for p, after := range of[1] {
		if before := of[0][p]; len(before) > 0 {
			all = append(all, s.member(p, counterparts(before, after)))
		} else {
			p.Size = len(after)
			d.Added = append(d.Added, p)
		}
	}
	for p, before := range of[0] {
		if len(of[1][p]) == 0 {
			p.Size = len(before)
			d.Removed = append(d.Removed, p)
		}
	}
	slices.SortFunc(all, func(a, b member) int { return compareParties(a.Party, b.Party) })
	slices.SortFunc(d.Added, compareParties)
	slices.SortFunc(d.Removed, compareParties)
	return all
}

// counterparts holds each end of a party before a change against one after it, and the other way round:
// those of the same name and, of the others, one after the other. Where there are more on one side, they
// are held against what has a counterpart already.
func counterparts(before, after []end) (units []unit) {
	named := map[string]end{}
	for _, e := range after {
		named[nameOf(e)] = e
	}
	var old, now []end
	for _, e := range before {
		if same, has := named[nameOf(e)]; has {
			units = append(units, unit{e, same})
			delete(named, nameOf(e))
		} else {
			old = append(old, e)
		}
	}
	for _, e := range after {
		if _, left := named[nameOf(e)]; left {
			now = append(now, e)
		}
	}
	for i := range max(len(old), len(now)) {
		units = append(units, unit{endAt(old, before, i), endAt(now, after, i)})
	}
	slices.SortFunc(units, func(a, b unit) int {
		return cmp.Or(cmp.Compare(a[0].Name, b[0].Name), cmp.Compare(a[1].Name, b[1].Name))
	})
	return units
}

// endAt is the end of that number of those without a counterpart or, if there are not so many, any.
func endAt(without, all []end, i int) end {
	if i < len(without) {
		return without[i]
	}
	return all[i%len(all)]
}
