package explain

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// Reach is who reaches some pods, and whom they reach.
type Reach struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // Reach
	// Target is what was asked about, as people write it, and Subjects are the parties that it stands for.
	Target   string  `json:"target"`
	Subjects []Party `json:"subjects"`
	// Ingress is who reaches a subject: To is a subject in each row. Egress is what a subject reaches:
	// From is one. Two parties have a row for each distinct answer; where nothing is open there is none.
	// Of networks and domain names there is a row if it is not as in the networks around it.
	Ingress []ReachRow `json:"ingress"`
	Egress  []ReachRow `json:"egress"`
	// Notes are about pods that were left out, and what no row says.
	Notes []Note `json:"notes,omitempty"`
}

// ReachKind is the kind of a Reach.
const ReachKind = "Reach"

// ReachRow is what is open from one party to another.
type ReachRow struct {
	From Party `json:"from"`
	To   Party `json:"to"`
	Opening
}

// Reach says who reaches a target, and what it reaches. The target is a pod, a workload, a namespace, a
// node or an address. The error says that it is not there.
func (x *Explainer) Reach(t Target) (*Reach, error) {
	s := newSurvey(x)
	return x.reach(s, s.everybody(x.cluster.Pods), t)
}

// reach is Reach by a survey, and the parties that it knows.
func (x *Explainer) reach(s *survey, peers []member, t Target) (*Reach, error) {
	if t.Kind == KindService {
		return nil, fmt.Errorf("%s: policies do not know Services; ask about the workload behind it, such as deploy/%s/%s", t, t.Namespace, t.Name)
	}
	ends, notes, err := x.ends(t)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ends, compareEnds)
	subjects := s.subjects(t, ends)
	r := &Reach{APIVersion: APIVersion, Kind: ReachKind, Target: t.String(), Subjects: []Party{}, Ingress: []ReachRow{}, Egress: []ReachRow{}, Notes: notes}
	for _, subject := range subjects {
		r.Subjects = append(r.Subjects, subject.Party)
		r.Ingress = append(r.Ingress, s.rows(subject, peers, func(peer member) (from, to member) { return peer, subject })...)
		r.Egress = append(r.Egress, s.rows(subject, peers, func(peer member) (from, to member) { return subject, peer })...)
	}
	for _, e := range ends {
		r.Notes = append(r.Notes, e.notes...)
	}
	if slices.ContainsFunc(r.Ingress, func(row ReachRow) bool { return row.From.Kind == KindNodes && row.Partly }) {
		r.Notes = append(r.Notes, Note{"OwnNode", "A node always reaches its own pods, so that probes of the kubelet need no rule."})
	}
	r.Notes = append(r.Notes, unknownNotes(slices.Concat(r.Ingress, r.Egress))...)
	r.Notes = append(r.Notes, x.stagedNotes(func(key policy.Key) bool {
		return key.Namespace == "" || slices.ContainsFunc(r.Subjects, func(p Party) bool { return p.Namespace == key.Namespace })
	})...)
	r.Notes = shortened(r.Notes)
	return r, nil
}

// unknownNotes says why of some ports nobody knows, if there are such.
func unknownNotes(rows []ReachRow) []Note {
	if !slices.ContainsFunc(rows, func(row ReachRow) bool { return len(row.Unknown) > 0 }) {
		return nil
	}
	return []Note{{"PlaceholderAddress", "Ports are not known where a rule names addresses, and a pod has none yet: whether the rule means it will be known when it runs. Name pods by selectors; explain says which rule it is."}}
}

// mostNotes is how many notes of one reason a Reach has at most: what is left out of a namespace can be
// thousands of pods.
const mostNotes = 5

// shortened are notes in order, of each reason a few, and how many more there are.
func shortened(notes []Note) (all []Note) {
	slices.SortFunc(notes, func(a, b Note) int { return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message)) })
	for len(notes) > 0 {
		n := 1
		for n < len(notes) && notes[n].Reason == notes[0].Reason {
			n++
		}
		all = append(all, notes[:min(n, mostNotes)]...)
		if n > mostNotes {
			all = append(all, Note{notes[0].Reason, fmt.Sprintf("There are %d more such pods.", n-mostNotes)})
		}
		notes = notes[n:]
	}
	return all
}

// subjects are the parties that a target stands for.
func (s *survey) subjects(t Target, ends []end) []member {
	if t.Kind == KindNamespace {
		return s.workloadsOf(ends)
	}
	if len(ends) == 0 {
		return nil
	}
	p := Party{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name}
	if t.Kind == KindAddress {
		p.Name = t.Address.String()
	}
	var units []unit
	for _, e := range ends {
		units = append(units, unit{e})
	}
	return []member{s.member(p, units)}
}

// everybody is all parties of a survey of one cluster: the workloads of pods, the nodes and the networks
// outside.
func (s *survey) everybody(pods []*corev1.Pod) []member {
	x := s.clusters[0]
	ends, _ := x.podsByName(pods)
	all := s.workloadsOf(ends)
	if nodes := x.nodeEnds(); len(nodes) > 0 {
		var units []unit
		for _, e := range nodes {
			units = append(units, unit{e})
		}
		all = append(all, s.member(Party{Kind: KindNodes}, units))
	}
	return append(all, s.networks()...)
}

// rows are the rows of a subject with each of its peers.
func (s *survey) rows(subject member, peers []member, direct func(peer member) (from, to member)) (rows []ReachRow) {
	answers, kinds := make([]string, len(peers)), make([][]string, len(peers))
	for i, peer := range peers {
		from, to := direct(peer)
		openings := s.openings(from, to)
		answers[i], kinds[i] = fmt.Sprint(openings), kindsOf(openings)
		if peer.around > 0 && answers[i] == answers[i-peer.around] || isAsAround(peer, i, kinds) {
			continue
		}
		for _, o := range openings {
			if len(o.Open)+len(o.Unknown) > 0 || peer.around+len(peer.like) > 0 && len(openings) == 1 {
				o.Open = slices.Concat([]OpenPorts{}, o.Open)
				rows = append(rows, ReachRow{from.Party, to.Party, o})
			}
		}
	}
	return rows
}

// kindsOf are the distinct answers of openings, in order, for however many pairs they are.
func kindsOf(openings []Opening) (kinds []string) {
	for _, o := range openings {
		kinds = append(kinds, fmt.Sprint(o.Open, o.Unknown))
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}
