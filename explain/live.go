package explain

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/policy"
)

// LiveDiff is which connections that pass now a change would cut, by what the agents have seen of them.
type LiveDiff struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // LiveDiff
	// Pairs is how many pairs of parties would lose connections, and Open how many connections were open on all
	// nodes when they were first looked at; one between two nodes counts on both.
	Pairs int `json:"pairs"`
	Open  int `json:"open"`
	// Cuts are what would be cut. LeftOut is how many connections more there are for which the agents had no room.
	Cuts    []LiveCut `json:"cuts"`
	LeftOut int       `json:"leftOut,omitempty"`
	// Rules are what would have to be added so that none of these is cut.
	Rules []LiveRule `json:"rules,omitempty"`
	// Nodes are those whose agents were asked, in order.
	Nodes []LiveNode `json:"nodes"`
	Notes []Note     `json:"notes,omitempty"`
}

// LiveDiffKind is the kind of a LiveDiff.
const LiveDiffKind = "LiveDiff"

// LiveCut are the connections from one party to another, at one port, that would be cut in one direction and for one
// reason. Those that both sides' policies would cut are in two.
type LiveCut struct {
	From Party `json:"from"`
	To   Party `json:"to"`
	// Protocol is TCP, UDP, SCTP, ICMP, ICMPv6 or a number, and Port the destination port, after destination NAT.
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
	// Direction is egress if the policies of From would cut it, and ingress if those of To would. By says which do,
	// as people write it, and Policies the same for programs.
	Direction string              `json:"direction,omitempty"`
	Reason    string              `json:"reason"`
	By        string              `json:"by"`
	Policies  []answers.CutPolicy `json:"policies,omitempty"`
	// Flows is how many connections these are, and CountedFlows of how many of them the kernels have counted Bytes,
	// in both directions.
	Flows        int    `json:"flows"`
	CountedFlows int    `json:"countedFlows,omitempty"`
	Bytes        uint64 `json:"bytes,omitempty"`
	// LastSeen is when the last packet of one of them has passed; absent: the kernel does not tell.
	LastSeen time.Time `json:"lastSeen,omitzero"`
	// Nodes are those that have seen them, in order.
	Nodes []string `json:"nodes"`

	from, to answers.LiveEnd
}

// LiveNode is a node whose agent was asked.
type LiveNode struct {
	Node string `json:"node"`
	// Answered: its agent has told all that was asked. Message says why not.
	Answered bool   `json:"answered"`
	Message  string `json:"message,omitempty"`
}

// Live puts together what agents have answered about a change, which leads to the cluster after. Of an agent that has
// not answered, Node and Message are enough.
func Live(after *Explainer, all []*answers.LiveCuts) *LiveDiff {
	d := &LiveDiff{APIVersion: APIVersion, Kind: LiveDiffKind, Cuts: []LiveCut{}, Nodes: []LiveNode{}}
	type key struct {
		from, to                Party
		protocol, direction, by string
		port                    uint16
	}
	at := map[key]int{}
	pods := byKey(after.cluster.Pods)
	uncounted, spares, atLeast := false, false, false
	for _, of := range all {
		d.Nodes = append(d.Nodes, LiveNode{Node: of.Node, Answered: of.Done, Message: of.Message})
		d.Open += of.Open
		d.LeftOut += of.LeftOut
		spares, atLeast = spares || of.Spares, atLeast || of.AtLeast
		for _, c := range of.Cuts {
			for _, end := range []*answers.LiveEnd{&c.Source, &c.Destination} {
				if pod := pods[policy.Key{Namespace: end.Namespace, Name: end.Pod}]; pod != nil && end.Pod != "" {
					end.Labels = pod.Labels // as they would be
				}
			}
			k := key{after.partyOf(c.Source, pods), after.partyOf(c.Destination, pods), c.Protocol, c.Direction, c.Text, c.Port}
			i, has := at[k]
			if !has {
				i = len(d.Cuts)
				at[k] = i
				d.Cuts = append(d.Cuts, LiveCut{
					From: k.from, To: k.to, Protocol: c.Protocol, Port: c.Port, Direction: c.Direction, Reason: c.Reason, By: c.Text, Policies: c.Policies,
					from: c.Source, to: c.Destination,
				})
			}
			cut := &d.Cuts[i]
			cut.Flows, cut.CountedFlows, cut.Bytes = cut.Flows+c.Flows, cut.CountedFlows+c.CountedFlows, cut.Bytes+c.Bytes
			if c.LastSeen.After(cut.LastSeen) {
				cut.LastSeen = c.LastSeen
			}
			cut.Nodes = append(cut.Nodes, of.Node)
			uncounted = uncounted || !of.Counts && c.CountedFlows < c.Flows
		}
	}
	pairs := map[[2]Party]bool{}
	for i := range d.Cuts {
		slices.Sort(d.Cuts[i].Nodes)
		d.Cuts[i].Nodes = slices.Compact(d.Cuts[i].Nodes)
		pairs[[2]Party{d.Cuts[i].From, d.Cuts[i].To}] = true
	}
	d.Pairs = len(pairs)
	slices.SortFunc(d.Nodes, func(a, b LiveNode) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortStableFunc(d.Cuts, func(a, b LiveCut) int {
		return cmp.Or(
			cmp.Compare(a.From.String(), b.From.String()), cmp.Compare(a.To.String(), b.To.String()), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.Port, b.Port), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.By, b.By),
		)
	})
	d.Rules = after.liveRules(d.Cuts)
	for _, note := range []struct {
		holds bool
		Note
	}{
		{uncounted, Note{"NotCounted", "Bytes are not counted on all nodes: sysctl -w net.netfilter.nf_conntrack_acct=1 on a node has them counted, of connections that begin afterwards."}},
		{spares, Note{"NotRevoked", "Agents leave established connections alone (--revoked-mark 0): these would go on, and new ones like them would be denied."}},
		{atLeast, Note{"AtLeast", "Very many connections would be cut: of those that have begun since, some are not counted."}},
	} {
		if note.holds {
			d.Notes = append(d.Notes, note.Note)
		}
	}
	return d
}

// Answered reports whether the agents of all nodes have told all that was asked.
func (d *LiveDiff) Answered() bool {
	return !slices.ContainsFunc(d.Nodes, func(n LiveNode) bool { return !n.Answered })
}

// partyOf is who an end is: the topmost owner of the pod that is known, or as the agent has it.
func (x *Explainer) partyOf(e answers.LiveEnd, pods map[policy.Key]*corev1.Pod) Party {
	party := Party{Kind: Kind(e.Kind), Namespace: e.Namespace, Name: e.Name}
	switch pod := pods[policy.Key{Namespace: e.Namespace, Name: e.Pod}]; {
	case party.Kind == KindAddress:
		party.Name = e.Address.String()
	case pod != nil && e.Pod != "":
		party.Kind, party.Name = KindPod, pod.Name
		if w := x.workload(pod); w != nil {
			party.Kind, party.Name = Kind(w.Kind), w.Name
		}
	}
	return party
}
