package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// Subject is a pod of this node with the policies that isolate it.
type Subject struct {
	Key
	// IPs are the addresses that are this pod's, in order; there is at least one.
	// An address that several subjects have is fenced by all of them: nobody can
	// tell which one has it (see owners.go).
	IPs []netip.Addr
	// Isolated says, per Direction, whether a policy isolates the pod. If none does,
	// the direction is open.
	Isolated [len(Directions)]bool
	// Isolating are the policies that isolate the pod, per Direction, in order. If there are more
	// than maxIsolating, it has only those with a rule: packets need not be shown to the others.
	Isolating [len(Directions)][]Key
	// Admin and Baseline are the ClusterNetworkPolicies of these tiers that are about the pod, per
	// Direction, in the order in which a packet meets them. The NetworkPolicies that isolate the pod
	// are between them: if any does, Baseline is never met.
	Admin, Baseline [len(Directions)][]Key
}

// Equal reports whether two say the same of one pod.
func (s *Subject) Equal(other *Subject) bool {
	return slices.Equal(s.IPs, other.IPs) && s.Isolated == other.Isolated && s.sameStacks(other) &&
		slices.Equal(s.Isolating[Ingress], other.Isolating[Ingress]) && slices.Equal(s.Isolating[Egress], other.Isolating[Egress])
}

// closeUnread isolates a pod whose labels are not known, because any policy might select it. It
// is still allowed what the policies allow that select all pods.
func (s *Subject) closeUnread(pod *Pod) {
	for _, d := range Directions {
		s.Isolated[d] = s.Isolated[d] || pod.Unread
	}
}

// isolator is a NetworkPolicy that isolates a pod.
type isolator struct {
	*Policy
	walks [len(Directions)]int
}

// maxIsolating is up to how many policies a packet is shown also to those that allow nothing.
// This is for people who look at the pod's chain, and for the log, which names the policies
// that cut a flow.
const maxIsolating = 32

// isolate notes the policies that isolate the pod.
func (s *Subject) isolate(policies []isolator) {
	for _, d := range Directions {
		var all, allowing []Key
		for _, p := range policies {
			if p.Isolates[d] {
				all = append(all, p.Key)
				if p.walks[d] > 0 {
					allowing = append(allowing, p.Key)
				}
			}
		}
		s.Isolated[d] = len(all) > 0
		if len(all) > maxIsolating {
			all = allowing
		}
		s.Isolating[d] = sortedKeys(all)
	}
}

// subject returns a pod of this node with the policies that isolate it; nil if the pod is no
// subject.
func (m *Model) subject(key Key) *Subject {
	ns := m.namespaces[key.Namespace]
	if ns == nil {
		return nil
	}
	selecting, is := ns.subjects[key]
	if !is {
		return nil
	}
	s := &Subject{Key: key, IPs: m.here(m.pod(key))}
	var isolators []isolator
	var stacked []*Policy
	for _, policy := range selecting {
		if policy.Tier == NetworkPolicyTier {
			isolators = append(isolators, isolator{&policy.Policy, policy.walks})
		} else {
			stacked = append(stacked, &policy.Policy)
		}
	}
	s.isolate(isolators)
	s.closeUnread(m.pod(key))
	s.stack(stacked)
	if pod := m.pod(key); pod.undecided(ns.object) {
		s.closeUndecided(m.undecidedOf(pod, ns.object))
	}
	return s
}

// undecidedOf are the ClusterNetworkPolicies that may be about a pod that is undecided.
func (m *Model) undecidedOf(pod *Pod, ns *Namespace) (policies []*Policy) {
	for _, s := range m.clusterPolicies() {
		if s.matcher != nil && m.takesPart(s, pod.Key) && s.matcher.mayMatch(pod, ns) {
			policies = append(policies, &s.Policy)
		}
	}
	return policies
}

// When the policies that isolate a pod change, all of its chain is written again, and a policy
// may come to select all pods of its namespace. So pods that were handed out before have to
// wait their turn as well. Until its turn, such a pod is isolated exactly as it was.

// moving is a subject that is to be handed out.
type moving struct {
	Key
	// had is the subject as it was handed out, and now is the subject as it is. Each is nil if
	// the pod was, or is, no subject.
	had, now *Subject
	// waits: some ClusterNetworkPolicies that it will have, or had, are not as they are yet, so that
	// now is not how it will be.
	waits bool
}

// urgent reports whether it cannot wait, which is so for a pod that is new, that has other
// addresses, that was deleted, or that is closed now: while it waited, policies that it was under
// before might come to allow it more.
func (s moving) urgent() bool {
	return s.had == nil || s.now == nil || !slices.Equal(s.had.IPs, s.now.IPs) ||
		slices.ContainsFunc(Directions[:], func(d Direction) bool { return s.now.closed(d) && !s.had.closed(d) })
}

// jumps is how many rules of the kernel, jumps to policies and stacks, have to be written or removed for it.
func (s moving) jumps() (n int) {
	for _, subject := range []*Subject{s.had, s.now} {
		if subject != nil {
			n += len(subject.Isolating[Ingress]) + len(subject.Isolating[Egress])
			for _, d := range Directions {
				for _, tier := range ClusterTiers {
					n += min(len(subject.Stack(tier, d)), 1)
				}
			}
		}
	}
	return n
}

// leaves are those of the policies that isolate the subject as it was handed out, but not as it
// is now. joins are those that isolate it as it is now, but not as it was handed out.
func (s moving) leaves(policies map[Key]struct{}) []Key { return isolatingOnly(s.had, s.now, policies) }
func (s moving) joins(policies map[Key]struct{}) []Key  { return isolatingOnly(s.now, s.had, policies) }

// isolatingOnly are those of the policies that isolate the subject in a direction in which they
// do not isolate the other subject.
func isolatingOnly(subject, other *Subject, policies map[Key]struct{}) (keys []Key) {
	if subject == nil || len(policies) == 0 {
		return nil
	}
	for _, d := range Directions {
		for _, key := range subject.Isolating[d] {
			if _, asked := policies[key]; asked && (other == nil || !slices.Contains(other.Isolating[d], key)) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// takeSubjects takes the subjects that have changed: all that cannot wait, and others as far as
// there is room. It returns the policies that must stay as they were handed out, because there
// are pods that they do not select any more, but whose turn has not come yet.
//
// ClusterNetworkPolicies are taken before. Where that changes the stacks of pods, these cannot wait
// either.
func (m *Model) takeSubjects(d *Delta, room *portion) (held map[Key]struct{}) {
	restacking, waiting := m.takeClusterPolicies(d)
	reselecting := m.reselecting()
	held = map[Key]struct{}{}
	var taken []moving
	for _, s := range m.subjectsInTurn(reselecting, waiting) {
		switch {
		case !s.urgent() && s.had.Equal(s.now):
			if !s.waits {
				delete(m.dirtySubjects, s.Key)
			}
		case s.urgent() || room.jumps > 0 || restacking && !s.had.sameStacks(s.now):
			m.chargeJumps(s, room)
			taken = append(taken, s)
		default:
			for _, key := range s.leaves(reselecting) {
				held[key] = struct{}{}
			}
		}
	}
	for _, s := range taken {
		m.takeSubject(s, held, d)
	}
	return held
}

// takeSubject takes a pod of this node. The rules of a held policy, as they were handed out, are
// not meant for pods that the policy has only now come to select: it isolates these pods, and
// allows them nothing until they have another turn.
func (m *Model) takeSubject(s moving, held map[Key]struct{}, d *Delta) {
	early := s.joins(held)
	if len(early) > 0 {
		s.now = s.now.without(early)
	} else if !s.waits {
		delete(m.dirtySubjects, s.Key)
	}
	if d.Subjects[s.Key] = s.now; s.now == nil {
		delete(m.handedSubjects, s.Key)
	} else {
		m.handedSubjects[s.Key] = s.now
	}
}

// without returns the subject without jumps to the given policies. It stays isolated.
func (s *Subject) without(policies []Key) *Subject {
	form := *s
	for _, d := range Directions {
		form.Isolating[d] = slices.DeleteFunc(slices.Clone(s.Isolating[d]), func(key Key) bool { return slices.Contains(policies, key) })
	}
	return &form
}

// reselecting are the policies that may isolate other pods now than they did as they were handed
// out.
func (m *Model) reselecting() map[Key]struct{} {
	keys := map[Key]struct{}{}
	for key := range m.dirtyPolicies {
		had, now := m.handed[key], m.policy(key)
		if key.Namespace != "" && had != nil && (now == nil || *had.Subject != *now.Subject || had.Isolates != now.Isolates) {
			keys[key] = struct{}{}
		}
	}
	return keys
}

// subjectsInTurn are the subjects that may have changed, in the order of turns. Within a
// namespace those come first that a policy has ceased to select, if it has come to select others
// instead: the policy has to wait for the former, and the latter wait for the policy.
func (m *Model) subjectsInTurn(reselecting, waiting map[Key]struct{}) (subjects []moving) {
	type place struct{ turn, others, leaves int }
	others := map[string]int{}
	for key := range m.dirtySubjects {
		others[key.Namespace]++
		s := moving{Key: key, had: m.handedSubjects[key]}
		final := m.subject(key)
		s.now = m.interim(key, final, s.had, waiting)
		s.waits = final != nil && !s.now.Equal(final)
		subjects = append(subjects, s)
	}
	places := make(map[Key]place, len(subjects))
	for _, s := range subjects {
		at := place{others: others[s.Namespace]}
		if ns := m.namespaces[s.Namespace]; ns != nil {
			at.turn = ns.turn
		}
		at.leaves = len(s.leaves(reselecting))
		places[s.Key] = at
	}
	slices.SortFunc(subjects, func(a, b moving) int {
		x, y := places[a.Key], places[b.Key]
		return cmp.Or(cmp.Compare(x.turn, y.turn), cmp.Compare(x.others, y.others), cmp.Compare(y.leaves, x.leaves), compareKey(a.Key, b.Key))
	})
	return subjects
}

// chargeJumps takes the room that a subject's jumps need.
func (m *Model) chargeJumps(s moving, room *portion) {
	room.jumps -= s.jumps()
	if ns := m.namespaces[s.Namespace]; ns != nil && room.limited() {
		ns.turn += s.jumps() * jumpCost
	}
}
