package policy

// A policy can be quarantined: it isolates the same pods as before, and allows nothing. That
// happens to policies whose rules the kernel refuses, and to those for which a budget has no
// room. All other policies hold meanwhile.

// WithoutRules is the policy as it is while quarantined: it isolates the same pods for the same
// directions, and allows nothing.
func (p Policy) WithoutRules() Policy {
	p.Rules, p.Sections = [len(Directions)][]Rule{}, [len(Directions)][]Section{}
	return p
}

// allows reports whether the policy has a rule.
func (p *Policy) allows() bool { return len(p.Rules[Ingress])+len(p.Rules[Egress]) > 0 }

// Quarantine returns the intent with these policies quarantined, and without the peers and named
// ports that no other policy uses. The intent itself stays as it is; what is returned shares
// most of it.
func (in Intent) Quarantine(policies map[Key]struct{}) Intent {
	out, none := in, newIntent()
	out.Policies, out.Peers, out.NamedPorts, out.Sections = none.Policies, none.Peers, none.NamedPorts, none.Sections
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
	return out
}

// Allowing are the policies that have a rule, in order.
func (in Intent) Allowing() (keys []Key) {
	for key, p := range in.Policies {
		if p.allows() {
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
