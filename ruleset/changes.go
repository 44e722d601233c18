package ruleset

import (
	"slices"

	"github.com/podfence/podfence/ruleset/nft"
)

// changes gathers operations by the order that they need: what is added comes
// before what uses it, and what is removed after.
type changes struct {
	newSets, newChains, rules, entries     []nft.Op
	oldChains, oldPolicyChains, oldMembers []nft.Op
	oldSets                                []nft.Op
}

func (c *changes) plan(family nft.Family) nft.Plan {
	return nft.Plan{Family: family, Ops: slices.Concat(c.newSets, c.newChains, c.rules, c.entries, c.oldChains, c.oldPolicyChains, c.oldMembers, c.oldSets)}
}

// content makes these the elements of a set.
func (c *changes) content(set *nft.Set, want map[nft.Element]struct{}) {
	var gone, added []nft.Element
	for e := range set.Elements {
		if _, stays := want[e]; !stays {
			gone = append(gone, e)
		}
	}
	for e := range want {
		if _, there := set.Elements[e]; !there {
			added = append(added, e)
		}
	}
	// Out before in: two ranges that overlap cannot be in the set together.
	if len(gone) > 0 {
		c.newSets = append(c.newSets, nft.DeleteElements{Set: set.Name, Type: set.Type, Elements: sorted(gone)})
	}
	if len(added) > 0 {
		c.newSets = append(c.newSets, nft.AddElements{Set: set.Name, Type: set.Type, Elements: sorted(added)})
	}
	set.SetElements(want)
}

func sorted(elements []nft.Element) []nft.Element {
	slices.SortFunc(elements, nft.CompareElements)
	return elements
}
