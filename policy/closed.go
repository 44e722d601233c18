package policy

// Closed is the policy without its rules: it isolates the same pods for the same
// directions, and allows nothing.
func (p Policy) Closed() Policy {
	p.Rules, p.Sections = [len(Directions)][]Rule{}, [len(Directions)][]Section{}
	return p
}

// open reports whether the policy has a rule.
func (p *Policy) open() bool { return len(p.Rules[Ingress])+len(p.Rules[Egress]) > 0 }

// Close closes policies, and leaves out the peers and named ports that no other
// uses. The intent stays as it is; what is returned shares most of it.
func (in Intent) Close(closed map[Key]struct{}) Intent {
	out, none := in, newIntent()
	out.Policies, out.Peers, out.NamedPorts, out.Sections = none.Policies, none.Peers, none.NamedPorts, none.Sections
	for key, p := range in.Policies {
		if _, is := closed[key]; is {
			p = p.Closed()
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

// Open are the policies that have a rule, in order.
func (in Intent) Open() (open []Key) {
	for key, p := range in.Policies {
		if p.open() {
			open = append(open, key)
		}
	}
	return sortedKeys(open)
}

// Close closes a policy if it is still this one, until SetPolicy has another for it,
// Reopen opens it, or DeletePolicy forgets it. The reason is kept for Problems.
func (m *Model) Close(p Policy, reason string) {
	if s := m.selecting(p.Key); s != nil && s.given.equal(&p) {
		m.closed[p.Key] = reason
		m.putPolicy(p.Closed(), s.given)
	}
}

// Reopen opens a policy that has been closed.
func (m *Model) Reopen(key Key) {
	if _, closed := m.closed[key]; closed {
		delete(m.closed, key)
		delete(m.over, key)
		m.putPolicy(*m.selecting(key).given, nil)
	}
}

// Problems are those of a policy that has been closed; none otherwise.
func (m *Model) Problems(key Key) []Problem {
	if reason, closed := m.closed[key]; closed {
		return []Problem{{Policy: key, Field: "spec", Reason: reason}}
	}
	return nil
}

// ClosedPolicies is how many policies are closed, but for those that the budget has.
func (m *Model) ClosedPolicies() int { return len(m.closed) - len(m.over) }
