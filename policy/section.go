package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
)

// A policy with very many rules, or ranges of addresses or ports, would take the kernel
// long, and nobody else's change could come into force meanwhile. So its rules are divided
// into sections. These are handed out bit by bit, while no packet meets them yet. Then the
// policy, which is a list of its sections, changes all at once.

const (
	// sectionWeight is how much a section has at most, in elements.
	sectionWeight = 500
	// rulePeers, ruleNames, ruleBlocks and rulePorts are how many selectors, port names,
	// ranges of addresses and ranges of ports go into each part when a rule that is too large
	// for a section is split. Ranges of ports take the kernel time by the square of their number
	// in a set (nft_set_pipapo): 10,000 take more than a second.
	rulePeers, ruleNames, ruleBlocks, rulePorts = 12, 1, 250, 250
)

// Section is a part of a policy's rules for a direction.
type Section struct {
	// Name is derived from the content: sections of a policy with other content have other names.
	// A section that is not handed out on its own has none: its rules pass, so that they must be in
	// the chain of the whole tier, whose other rules they skip.
	Name string
	// Rules are a part of the policy's.
	Rules []Rule
}

// SectionKey names a section.
type SectionKey struct {
	Policy    Key
	Direction Direction
	Name      string
}

func (k SectionKey) String() string {
	return k.Policy.String() + " " + k.Direction.String() + " " + k.Name
}

// weight is how much of a section a rule takes, in elements.
func (r *Rule) weight() int {
	weight := ruleCost*r.walk() + len(r.Blocks) + len(r.Ports)
	if len(r.Blocks) > 0 {
		weight += 2 * contentCost // one for each family
	}
	if len(r.Domains) > 0 {
		weight += domainSets * contentCost
	}
	if len(r.Ports) > 0 {
		weight += contentCost
	}
	return weight
}

// weight is how much a section takes, in elements.
func (s *Section) weight() (weight int) {
	for i := range s.Rules {
		weight += s.Rules[i].weight()
	}
	return weight
}

// split returns several rules for one that is too large for a section. Together they allow the
// same.
func (r Rule) split() []Rule {
	if r.weight() <= sectionWeight && len(r.Blocks) <= ruleBlocks && len(r.Ports) <= rulePorts {
		return []Rule{r}
	}
	var peers, ports, rules []Rule
	if r.AnyPeer {
		peers = append(peers, Rule{AnyPeer: true})
	}
	for chunk := range slices.Chunk(r.Peers, rulePeers) {
		peers = append(peers, Rule{Peers: chunk})
	}
	if len(r.Domains) > 0 {
		peers = append(peers, Rule{Domains: r.Domains})
	}
	for chunk := range slices.Chunk(r.Blocks, ruleBlocks) {
		peers = append(peers, Rule{Blocks: chunk})
	}
	if r.AnyPort {
		ports = append(ports, Rule{AnyPort: true})
	}
	for chunk := range slices.Chunk(r.Ports, rulePorts) {
		ports = append(ports, Rule{Ports: chunk})
	}
	for chunk := range slices.Chunk(r.NamedPorts, ruleNames) {
		ports = append(ports, Rule{NamedPorts: chunk})
	}
	for _, peer := range peers {
		for _, port := range ports {
			rules = append(rules, Rule{
				Index: r.Index, Merged: r.Merged, Name: r.Name, Action: r.Action, AnyPeer: peer.AnyPeer, Peers: peer.Peers, Domains: peer.Domains, Blocks: peer.Blocks,
				AnyPort: port.AnyPort, Ports: port.Ports, NamedPorts: port.NamedPorts,
			})
		}
	}
	return rules
}

// Divided is the policy with its rules divided into sections, as Parse and ParseCluster return it.
func (p Policy) Divided() Policy {
	p.divide()
	return p
}

// divide divides the rules into sections where there are more than can come into force at once.
func (p *Policy) divide() {
	for _, d := range Directions {
		p.Sections[d] = sectionsOf(p.Rules[d])
		passing := func(r Rule) bool { return r.Action == Pass }
		if !slices.ContainsFunc(p.Rules[d], passing) {
			continue
		}
		p.Sections[d] = nil
		for rules := p.Rules[d]; len(rules) > 0; {
			n := slices.IndexFunc(rules, func(r Rule) bool { return passing(r) != passing(rules[0]) })
			if n < 0 {
				n = len(rules)
			}
			run := rules[:n]
			switch rules = rules[n:]; {
			case passing(run[0]):
				p.Sections[d] = append(p.Sections[d], Section{Rules: run})
			default:
				sections := sectionsOf(run)
				if sections == nil {
					sections = []Section{newSection(run)}
				}
				p.Sections[d] = append(p.Sections[d], sections...)
			}
		}
	}
}

// Passes reports whether the policy has a rule that passes in a direction. The policy then has no
// chain of its own, but sections.
func (p *Policy) Passes(d Direction) bool {
	return slices.ContainsFunc(p.Rules[d], func(r Rule) bool { return r.Action == Pass })
}

// sectionsOf are the sections of rules; nil if all rules fit into one.
func sectionsOf(rules []Rule) (sections []Section) {
	first, weight := 0, 0
	for i := range rules {
		more := rules[i].weight()
		if i > first && weight+more > sectionWeight {
			sections = append(sections, newSection(rules[first:i]))
			first, weight = i, 0
		}
		weight += more
	}
	if first == 0 {
		return nil
	}
	return append(sections, newSection(rules[first:]))
}

func newSection(rules []Rule) Section {
	var content []byte
	for _, r := range rules {
		content = r.appendTo(content)
	}
	sum := sha256.Sum256(content)
	return Section{Name: strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:16], Rules: rules}
}

// sectionKeys are the names of a policy's sections, with what is in each.
func (p *Policy) sectionKeys() map[SectionKey]*Section {
	keys := map[SectionKey]*Section{}
	for _, d := range Directions {
		for i := range p.Sections[d] {
			s := &p.Sections[d][i]
			if s.Name == "" {
				continue
			}
			keys[SectionKey{p.Key, d, s.Name}] = s
		}
	}
	return keys
}

// section is a section in use.
type section struct {
	rules []Rule
	// users is how many forms of the policy have it: as the policy is, and as it was handed out.
	users int
	// weight is how much it takes, in elements.
	weight int
	// fresh: not handed out yet.
	fresh bool
}

// useSections adds by users to a policy's sections.
func (ms *members) useSections(p *Policy, by int) {
	for key, of := range p.sectionKeys() {
		s := ms.sections[key]
		if s == nil {
			s = &section{rules: of.Rules, weight: of.weight(), fresh: true}
			ms.sections[key] = s
		}
		if s.users += by; s.fresh || s.users == 0 {
			ms.changedSections[key] = s
		}
	}
}

// takeSection takes a section that is new, or used again. The sets that it names are handed out
// by then: its turn comes after those of its namespace's sets, and where there was no room for
// one of these, there is none for the section.
func (m *Model) takeSection(key SectionKey, s *section, d *Delta, room *portion) {
	if s.users == 0 {
		return
	}
	delete(m.changedSections, key)
	if s.fresh {
		room.room -= s.weight
		d.Sections[key], s.fresh = s.rules, false
	}
}

// takeGoneSections removes the sections that no policy has any more, as many as there is room
// for, and reports whether some have to wait. They can wait because no packet meets them.
func (m *Model) takeGoneSections(d *Delta, room *portion) (pending bool) {
	for key, s := range m.changedSections {
		if s.users > 0 {
			continue
		}
		if m.leave(s.fresh, 1+s.weight/setCost, room) {
			pending = true
			continue
		}
		if !s.fresh {
			d.Sections[key] = nil
		}
		delete(m.sections, key)
		delete(m.changedSections, key)
	}
	return pending
}
