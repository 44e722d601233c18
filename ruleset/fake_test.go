package ruleset_test

import (
	"fmt"
	"maps"
	"reflect"
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

// fake carries plans out as the kernel does, and fails where the kernel would:
// EEXIST, ENOENT and EBUSY.
type fake struct {
	t      *testing.T
	family nft.Family
	sets   map[string]*nft.Set
	chains map[string]*nft.Chain
}

func newFake(t *testing.T) *fake { return &fake{t: t} }

func (f *fake) apply(plan nft.Plan) {
	f.t.Helper()
	if plan.Replace {
		f.family = plan.Family
		f.sets, f.chains = map[string]*nft.Set{}, map[string]*nft.Chain{}
	}
	if plan.Family != f.family {
		f.t.Errorf("a plan for family %s in family %s", plan.Family, f.family)
	}
	for _, op := range plan.Ops {
		if err := f.carryOut(op); err != nil {
			f.t.Errorf("%#v: %v", op, err)
		}
	}
}

func (f *fake) carryOut(op nft.Op) error {
	switch o := op.(type) {
	case nft.AddSet:
		if f.sets[o.Name] != nil {
			return fmt.Errorf("EEXIST")
		}
		set := &nft.Set{Name: o.Name, Type: o.Type, Comment: o.Comment, Dynamic: o.Dynamic, Timeout: o.Timeout}
		if o.Timed {
			set.Timed = map[nft.Element]nft.Timed{}
		} else if o.Map {
			set.Verdicts = map[nft.Element]nft.Verdict{}
		} else {
			set.Elements = map[nft.Element]struct{}{}
		}
		f.sets[o.Name] = set
	case nft.DeleteSet:
		if f.sets[o.Name] == nil {
			return fmt.Errorf("ENOENT")
		}
		for _, chain := range f.chains {
			for _, rule := range chain.Rules {
				if uses(rule, o.Name) {
					return fmt.Errorf("EBUSY: used by %s: %s", chain.Name, rule)
				}
			}
		}
		delete(f.sets, o.Name)
	case nft.AddElements:
		set := f.sets[o.Set]
		if set == nil || set.Type != o.Type || len(o.Elements) == 0 {
			return fmt.Errorf("ENOENT")
		}
		for _, e := range o.Elements {
			if _, there := set.Elements[e]; there {
				return fmt.Errorf("EEXIST: %v", e)
			}
			set.Elements[e] = struct{}{}
		}
	case nft.DeleteElements:
		set := f.sets[o.Set]
		if set == nil || set.Type != o.Type || len(o.Elements) == 0 {
			return fmt.Errorf("ENOENT")
		}
		for _, e := range o.Elements {
			_, element := set.Elements[e]
			_, entry := set.Verdicts[e]
			if !element && !entry {
				return fmt.Errorf("ENOENT: %v", e)
			}
			delete(set.Elements, e)
			delete(set.Verdicts, e)
		}
	case nft.AddTimed:
		set := f.sets[o.Set]
		if set == nil || set.Type != o.Type || set.Timed == nil || len(o.Elements) == 0 {
			return fmt.Errorf("ENOENT")
		}
		for _, e := range o.Elements {
			if was, there := set.Timed[e.Element]; there && (o.New || was == e.Timed) {
				return fmt.Errorf("EEXIST, or changes nothing: %v", e)
			}
			set.Timed[e.Element] = e.Timed
		}
	case nft.DeleteTimed:
		set := f.sets[o.Set]
		if set == nil || set.Type != o.Type || set.Timed == nil || len(o.Elements) == 0 {
			return fmt.Errorf("ENOENT")
		}
		for _, e := range o.Elements {
			if _, there := set.Timed[e]; !there {
				return fmt.Errorf("ENOENT: %v", e)
			}
			delete(set.Timed, e)
		}
	case nft.AddVerdicts:
		set := f.sets[o.Map]
		if set == nil || set.Type != o.Type || !set.IsMap() || len(o.Entries) == 0 {
			return fmt.Errorf("ENOENT")
		}
		for _, entry := range o.Entries {
			if _, there := set.Verdicts[entry.Key]; there {
				return fmt.Errorf("EEXIST: %v", entry)
			}
			if entry.Verdict.Action == nft.Jump && f.chains[entry.Verdict.Chain] == nil {
				return fmt.Errorf("ENOENT: chain %s", entry.Verdict.Chain)
			}
			set.Verdicts[entry.Key] = entry.Verdict
		}
	case nft.AddChain:
		if f.chains[o.Name] != nil {
			return fmt.Errorf("EEXIST")
		}
		f.chains[o.Name] = &nft.Chain{Name: o.Name, Hook: o.Hook}
	case nft.DeleteChain:
		if f.chains[o.Name] == nil {
			return fmt.Errorf("ENOENT")
		}
		for _, chain := range f.chains {
			for _, rule := range chain.Rules {
				if rule.Verdict.Chain == o.Name {
					return fmt.Errorf("EBUSY: %s jumps to it", chain.Name)
				}
			}
		}
		for _, set := range f.sets {
			for _, verdict := range set.Verdicts {
				if verdict.Chain == o.Name {
					return fmt.Errorf("EBUSY: %s jumps to it", set.Name)
				}
			}
		}
		delete(f.chains, o.Name)
	case nft.SetRules:
		chain := f.chains[o.Chain]
		if chain == nil {
			return fmt.Errorf("ENOENT")
		}
		for _, rule := range o.Rules {
			if err := f.known(rule); err != nil {
				return err
			}
		}
		if reflect.DeepEqual(chain.Rules, o.Rules) {
			return fmt.Errorf("changes nothing")
		}
		chain.Rules = o.Rules
	}
	return nil
}

// known reports what a rule names that is not there.
func (f *fake) known(rule nft.Rule) error {
	for _, match := range rule.Matches {
		if lookup, is := match.(nft.Lookup); is && f.sets[lookup.Set] == nil {
			return fmt.Errorf("ENOENT: set %s", lookup.Set)
		}
	}
	if v := rule.Verdict; v.Action == nft.Jump && f.chains[v.Chain] == nil || v.Action == nft.Dispatch && f.sets[v.Map] == nil {
		return fmt.Errorf("ENOENT: %s", v)
	}
	return nil
}

func uses(rule nft.Rule, set string) bool {
	for _, match := range rule.Matches {
		if lookup, is := match.(nft.Lookup); is && lookup.Set == set {
			return true
		}
	}
	return rule.Verdict.Map == set
}

func (f *fake) text() string {
	return (&nft.Table{Family: f.family, Sets: maps.Clone(f.sets), Chains: maps.Clone(f.chains)}).Text()
}
