package nft

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TableName is the name of podfence's tables, of which there is at most one in each family. Every
// component should create its own tables and work only within those.
const TableName = "podfence"

// StagedTableName is the name of a second table of family inet, which says what staged policies would do.
const StagedTableName = TableName + "-staged"

// NamesTableName is the name of a third table of family inet, which has DNS told and holds its replies.
const NamesTableName = TableName + "-names"

// Family is the family of a table: which packets it sees.
type Family uint8

// The families.
const (
	Inet   Family = iota // IPv4 and IPv6 packets
	Bridge               // frames that a bridge handles
)

func (f Family) String() string {
	switch f {
	case Inet:
		return "inet"
	case Bridge:
		return "bridge"
	}
	panic(fmt.Sprintf("nft knows of no family %d", uint8(f)))
}

// Table is what the kernel holds, or must hold.
type Table struct {
	Family Family
	Sets   map[string]*Set
	Chains map[string]*Chain

	// judging are the base chains that judge packets, by their hook, in the order in which the
	// kernel runs them.
	judging map[HookPoint][]*Chain
}

// NewTable is an empty table.
func NewTable(family Family) Table {
	return Table{Family: family, Sets: map[string]*Set{}, Chains: map[string]*Chain{}, judging: map[HookPoint][]*Chain{}}
}

// AddSets adds sets to the table.
func (t *Table) AddSets(sets ...*Set) {
	for _, set := range sets {
		t.Sets[set.Name] = set
	}
}

// AddChains adds chains to the table. Base chains stay as long as the table.
func (t *Table) AddChains(chains ...*Chain) {
	for _, chain := range chains {
		t.Chains[chain.Name] = chain
		if chain.judges() {
			t.judging[chain.Hook.Point] = append(t.judging[chain.Hook.Point], chain)
			t.sort(t.judging[chain.Hook.Point])
		}
	}
}

// judges reports whether it is a base chain that decides whether packets pass. A base chain of type
// nat does not: it gives packets another address.
func (c *Chain) judges() bool { return c.Hook != nil && !c.Hook.NAT }

// sort puts base chains of a hook into the order in which the kernel runs them: by priority. Among
// chains of the same priority, the order makes no difference: none of them changes the packet, and
// what one accepts, the next one judges as well.
func (t *Table) sort(bases []*Chain) {
	slices.SortFunc(bases, func(a, b *Chain) int {
		first, _ := a.Hook.Number(t.Family)
		second, _ := b.Hook.Number(t.Family)
		return cmp.Or(cmp.Compare(first, second), strings.Compare(a.Name, b.Name))
	})
}

// judgingAt are the base chains of a hook that judge packets, in the order in which the kernel runs
// them. In a table that was not made by NewTable, they are looked for among all chains.
func (t *Table) judgingAt(hook HookPoint) []*Chain {
	if t.judging != nil {
		return t.judging[hook]
	}
	var bases []*Chain
	for _, chain := range t.Chains {
		if chain.judges() && chain.Hook.Point == hook {
			bases = append(bases, chain)
		}
	}
	t.sort(bases)
	return bases
}

// sortedChains are the base chains, then the others by name.
func (t *Table) sortedChains() []*Chain {
	return slices.SortedFunc(maps.Values(t.Chains), func(a, b *Chain) int {
		if base := a.Hook != nil; base != (b.Hook != nil) {
			if base {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
}
