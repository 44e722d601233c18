package explain

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/podfence/podfence/policy"
)

// Explain answers a question. The error says what of it names nothing.
func (x *Explainer) Explain(q Question) (*Explanation, error) {
	from, notes, err := x.ends(q.From)
	if err != nil {
		return nil, err
	}
	to, said, err := x.ways(q.To, q.Port)
	if err != nil {
		return nil, err
	}
	e := &Explanation{APIVersion: APIVersion, Kind: ExplanationKind, Question: q.String()}
	var apart int
	if e.Answers, apart = x.answers(from, to); apart > 0 && len(e.Answers) > 0 && q.To.Kind != KindService {
		said = append(said, Note{"NoAddresses", fmt.Sprintf("%d more pairs have no addresses of the same family.", apart)})
	}
	e.Notes, e.Unanswered = distinct(notes, said), unanswered(notes, said, q.To.Kind)
	e.Verdict = verdictOf(e.Answers)
	if len(e.Unanswered) > 0 && len(e.Answers) > 0 {
		e.Verdict = Mixed
	}
	if len(e.Answers) == 0 && len(e.Notes) == 0 {
		e.Notes = []Note{{"NoAddresses", "The two have no addresses of the same family, or are one and the same pod."}}
	}
	e.Notes = append(e.Notes, x.translations(q)...)
	return e, nil
}

// verdictOf sums answers up.
func verdictOf(answers []Answer) Verdict {
	if len(answers) == 0 {
		return Unknown
	}
	for _, a := range answers[1:] {
		if a.Verdict != answers[0].Verdict {
			return Mixed
		}
	}
	return answers[0].Verdict
}

// unanswered are the notes about ends that take part in what was asked, and of which there is no answer:
// notes are about where packets come from, said about where they go to, or how the two go together. A pod
// that has ended takes no part, nor does one behind a Service to which that cannot send: it is no endpoint.
func unanswered(notes, said []Note, to Kind) []Note {
	others := func(reasons ...string) func(Note) bool {
		return func(n Note) bool { return !slices.Contains(reasons, n.Reason) }
	}
	reasons := []string{"HostNetwork", "NoAddresses", "NoAddress", "NoSuchPort"}
	from := slices.DeleteFunc(slices.Clone(notes), others(reasons...))
	if to == KindService {
		reasons = reasons[:1]
	}
	return distinct(from, slices.DeleteFunc(slices.Clone(said), others(reasons...)))
}

// distinct are the notes of several lists, each once.
func distinct(lists ...[]Note) (notes []Note) {
	for _, n := range slices.Concat(lists...) {
		if !slices.Contains(notes, n) {
			notes = append(notes, n)
		}
	}
	return notes
}

// answers are the distinct answers for pairs of ends, in the order of the ends. Ends that are alike to
// all policies are asked about once. Apart are how many pairs have no addresses of the same family.
func (x *Explainer) answers(from []end, to []way) (answers []Answer, apart int) {
	seen := map[string]int{} // the place in answers of an answer, by all that it says but for its ends
	c := x.classifier()
	onNode := func(e end) bool { return e.pod == nil && e.Kind != KindAddress }
	c.byNode = slices.ContainsFunc(from, onNode) || slices.ContainsFunc(to, func(w way) bool { return onNode(w.to) })
	sources, targets := group(from, c.ofEnd), group(to, c.ofWay)
	for _, source := range sources {
		for _, target := range targets {
			a, b, pairs := pick(source, target)
			if pairs == 0 {
				continue
			}
			of := x.answer(a, b, cover(source, target))
			if len(of) == 0 {
				apart += pairs
			}
			for _, answer := range of {
				answer.Pairs = pairs
				key := essence(answer)
				if at, is := seen[key]; is {
					answers[at].Pairs += pairs
					answers[at].Probes = append(answers[at].Probes, answer.Probes...)
					continue
				}
				seen[key] = len(answers)
				answers = append(answers, answer)
			}
		}
	}
	return answers, apart
}

// pick takes one end of each of two classes, and counts the pairs that the classes make. Only where
// nothing else is asked about is it a pair of a pod and itself.
func pick(sources []end, targets []way) (a end, b way, pairs int) {
	same := 0
	for _, source := range sources {
		for _, target := range targets {
			if sameEnd(source, target.to) {
				same++
			}
		}
	}
	pairs = len(sources) * len(targets)
	if pairs == same {
		if len(sources) == 1 && len(targets) == 1 {
			return sources[0], targets[0], 1
		}
		return end{}, way{}, 0
	}
	for _, source := range sources {
		for _, target := range targets {
			if !sameEnd(source, target.to) {
				return source, target, pairs - same
			}
		}
	}
	return end{}, way{}, 0
}

// essence is all that an answer says but for which ends it is about.
func essence(a Answer) string {
	a.From, a.To, a.Pairs = End{Kind: a.From.Kind, Workload: a.From.Workload}, End{Kind: a.To.Kind, Workload: a.To.Workload}, 0
	a.Egress.EnforcedAt, a.Ingress.EnforcedAt = "", ""
	a.Notes = slices.DeleteFunc(slices.Clone(a.Notes), func(n Note) bool { return n.Reason == "PodNotReady" || n.Reason == "HostNetwork" })
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Sprintf("%+v", a)
	}
	return string(text)
}

// answer is what becomes of packets from one end to another: one answer, or one for each address family
// where they differ. They hold for all the pairs.
func (x *Explainer) answer(from end, to way, pairs []pair) (answers []Answer) {
	for _, src := range from.addrs {
		for _, dst := range to.to.addrs {
			if src.Is4() != dst.Is4() {
				continue
			}
			a := x.between(from, to, policy.Packet{Src: src, Dst: dst, HopLimit: 64})
			a.Probes = probes(a, pairs)
			if len(answers) == 0 || essence(a) != essence(answers[0]) {
				answers = append(answers, a)
			} else {
				answers[0].Probes = append(answers[0].Probes, a.Probes...)
			}
		}
	}
	return answers
}

// between is what becomes of packets between two addresses.
func (x *Explainer) between(from end, to way, p policy.Packet) Answer {
	a := Answer{From: from.End, To: to.to.End, Pairs: 1, Service: to.by}
	a.From.Address, a.To.Address = p.Src, p.Dst
	p.Hairpin = p.Src == p.Dst && to.by != nil
	p.Protocol, p.DstPort = to.port.Protocol, to.port.Number
	asked, addresses := to.port != (Port{}), p
	var doubts []Note
	if !asked {
		var ports map[Verdict][]policy.PortRange
		ports, doubts = x.ports(&a, x.bounds(from, to.to), p)
		a.Open, a.Unknown, a.Verdict = openPorts(ports[Allowed]), openPorts(ports[Unknown]), overall(ports)
		shown := ports[Allowed]
		if a.Verdict == Unknown {
			shown = ports[Unknown]
		}
		protocol, number := representative(shown, to.to)
		p = toPort(p, protocol, number)
	}
	decided := x.decide(&a, p)
	if asked {
		a.Protocol, a.Port, a.Verdict = p.Protocol.String(), p.DstPort, decided.both
	}
	switch {
	case !a.isRehearsed():
	case asked:
		a.WithStaged = &RehearsedAnswer{Verdict: decided.withStaged}
	default:
		ports, _ := x.WithStaged().ports(&a, x.bounds(from, to.to), addresses)
		a.WithStaged = &RehearsedAnswer{overall(ports), openPorts(ports[Allowed]), openPorts(ports[Unknown])}
	}
	a.Notes = distinct(union(doubts, decided.doubts), from.notes, to.to.notes, x.hints(a, decided.egress, decided.ingress), x.agents(a))
	return a
}

// decision is what becomes of a packet, and the packet as each side sees it.
type decision struct {
	both Verdict
	// withStaged is what would become of it with the staged policies in force, if there are any.
	withStaged Verdict
	// doubts are by which rules it depends on addresses that are placeholders, at either end.
	doubts          []Note
	egress, ingress packet
}

// decide says what becomes of a packet between the ends of an answer, and puts into the answer what is
// decided at each of them.
func (x *Explainer) decide(a *Answer, p policy.Packet) (d decision) {
	d.egress, d.ingress = x.seen(a, p)
	w, doubts := x.weigh(x.Judge(p), d.egress, d.ingress)
	d.both, d.doubts = w.both, doubts
	a.Egress, a.Ingress = x.side(w.judged.Egress, d.egress), x.side(w.judged.Ingress, d.ingress)
	a.Egress.Verdict, a.Ingress.Verdict = w.egress, w.ingress
	if x.rehearses() {
		rehearsed := Answer{From: a.From, To: a.To, Service: a.Service}
		d.withStaged = x.WithStaged().decide(&rehearsed, p).both
		a.Egress.rehearse(rehearsed.Egress)
		a.Ingress.rehearse(rehearsed.Ingress)
	}
	return d
}

// seen is a packet between the ends of an answer, as each of them sees it.
func (x *Explainer) seen(a *Answer, p policy.Packet) (egress, ingress packet) {
	src, dst := x.Holder(p.Src), x.Holder(p.Dst)
	egress = packet{Packet: p, d: policy.Egress, subject: src, peer: dst, destination: dst, peerAddr: p.Dst, peerEnd: a.To, by: a.Service}
	ingress = packet{Packet: p, d: policy.Ingress, subject: dst, peer: src, destination: dst, peerAddr: p.Src, peerEnd: a.From, by: a.Service}
	return egress, ingress
}

func word(allowed bool) Verdict {
	if allowed {
		return Allowed
	}
	return Denied
}
