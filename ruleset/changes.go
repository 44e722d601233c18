package ruleset

import (
	"slices"

	"github.com/podfence/podfence/ruleset/nft"
)

// changes gathers operations in the order that they need: what is added comes before what uses
// it, and what is removed comes after what used it.
type changes struct {
	newSets, newChains, rules, entries    []nft.Op
	oldChains, oldStacks, oldPolicyChains []nft.Op
	oldMembers                            []nft.Op
	oldSets                               []nft.Op
}

func (c *changes) plan(family nft.Family) nft.Plan {
	return nft.Plan{Family: family, Ops: slices.Concat(c.newSets, c.newChains, c.rules, c.entries, c.oldChains, c.oldStacks, c.oldPolicyChains, c.oldMembers, c.oldSets)}
}

// content makes the wanted elements those of a set.
func (c *changes) content(set *nft.Set, want map[nft.Element]struct{}) {
	var removed, added []nft.Element
	for e := range set.Elements {
		if _, stays := want[e]; !stays {
			removed = append(removed, e)
		}
	}
	for e := range want {
		if _, has := set.Elements[e]; !has {
			added = append(added, e)
		}
	}
	// Elements are removed before others are added: ranges that overlap cannot be in the set
	// together.
	if len(removed) > 0 {
		c.newSets = append(c.newSets, nft.DeleteElements{Set: set.Name, Type: set.Type, Elements: sorted(removed)})
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
