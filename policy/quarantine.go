package policy

import "slices"

// A policy can be quarantined: it is about the same pods as before, and allows nothing. That
// happens to policies whose rules the kernel refuses, and to those for which a budget has no
// room. All other policies hold meanwhile.

// WithoutRules is the policy as it is while quarantined. A NetworkPolicy isolates the same pods for
// the same directions, and allows nothing. A ClusterNetworkPolicy denies everything in each
// direction in which it denies or passes anything: without the rules that do, what comes behind it
// might allow what they deny.
func (p Policy) WithoutRules() Policy {
	rules := p.Rules
	p.Rules, p.Sections = [len(Directions)][]Rule{}, [len(Directions)][]Section{}
	for _, d := range Directions {
		if closes(rules[d]) {
			p.Rules[d] = []Rule{denyAll(wholePolicy, "")}
		}
	}
	return p
}

// closes reports whether one of the rules does something else than to accept. Those of a
// NetworkPolicy never do.
func closes(rules []Rule) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.Action != Accept })
}

// wholePolicy is the Index of a rule that stands for all rules of a policy.
const wholePolicy = -1

// hasRules reports whether the policy has a rule of its own.
func (p *Policy) hasRules() bool {
	for _, d := range Directions {
		if slices.ContainsFunc(p.Rules[d], func(r Rule) bool { return r.Index != wholePolicy }) {
			return true
		}
	}
	return false
}

// Quarantine returns the intent with these policies quarantined, and without the peers and named
// ports that no other policy uses. The intent itself stays as it is; what is returned shares
// most of it.
func (in Intent) Quarantine(policies map[Key]struct{}) Intent {
	out, none := in, newIntent()
	out.Policies, out.Peers, out.NamedPorts, out.Sections, out.Subjects = none.Policies, none.Peers, none.NamedPorts, none.Sections, none.Subjects
	for key, p := range in.Policies {
		if _, quarantined := policies[key]; quarantined {
			p = p.WithoutRules()
		}
		out.Policies[key] = p
		for section, of := range p.sectionKeys() {
			out.Sections[section] = of.Rules
		}
		for _, d := range Directions {
			for _, rule := range p.Rules[d] {
				for _, s := range rule.Peers {
					out.Peers[s] = in.Peers[s]
				}
				for _, n := range rule.NamedPorts {
					out.NamedPorts[n] = in.NamedPorts[n]
				}
			}
		}
	}
	for key, s := range in.Subjects {
		for _, d := range Directions {
			hasNoRules := func(policy Key) bool { return len(out.Policies[policy].Rules[d]) == 0 }
			s.Admin[d] = slices.DeleteFunc(slices.Clone(s.Admin[d]), hasNoRules)
			s.Baseline[d] = slices.DeleteFunc(slices.Clone(s.Baseline[d]), hasNoRules)
		}
		out.Subjects[key] = s
	}
	return out
}

// WithRules are the policies that have a rule of their own, in order.
func (in Intent) WithRules() (keys []Key) {
	for key, p := range in.Policies {
		if p.hasRules() {
			keys = append(keys, key)
		}
	}
	return sortedKeys(keys)
}

// Quarantine quarantines a policy if the model still has this one. It ends when the policy
// changes, when it is deleted, or by Release. Problems gives the reason.
func (m *Model) Quarantine(p Policy, reason string) {
	if s := m.selecting(p.Key); s != nil && s.given.equal(&p) {
		m.quarantined[p.Key] = reason
		m.putPolicy(p.WithoutRules(), s.given)
	}
}

// Release has a quarantined policy hold again.
func (m *Model) Release(key Key) {
	if _, quarantined := m.quarantined[key]; quarantined {
		delete(m.quarantined, key)
		delete(m.over, key)
		m.putPolicy(*m.selecting(key).given, nil)
	}
}

// Problems say why a policy is quarantined; none if it is not.
func (m *Model) Problems(key Key) []Problem {
	if reason, quarantined := m.quarantined[key]; quarantined {
		return []Problem{{Policy: key, Field: "spec", Reason: reason}}
	}
	return nil
}

// Quarantined is how many policies are quarantined for another reason than a budget.
func (m *Model) Quarantined() int { return len(m.quarantined) - len(m.over) }
