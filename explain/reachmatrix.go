package explain

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/podfence/podfence/policy"
)

// MaxMatrix is how many parties a ReachMatrix has at most. All pairs of them are asked about.
const MaxMatrix = 2000

// ReachMatrix is who reaches whom among the workloads of a namespace, or of all.
type ReachMatrix struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // ReachMatrix
	// Namespace is the one that was asked about; empty: all.
	Namespace string `json:"namespace,omitempty"`
	// Parties are the workloads, and after them the networks outside that policies tell apart, and domain names.
	Parties []Party `json:"parties"`
	// Cells are what is open, in the order of Parties. Two parties have one for each distinct answer;
	// where nothing is open there is none. Of networks and domain names there is a cell if it is not as for the
	// networks around it.
	Cells []ReachCell `json:"cells"`
	// Notes are about pods that were left out, and ports of which nobody knows.
	Notes []Note `json:"notes,omitempty"`
}

// ReachMatrixKind is the kind of a ReachMatrix.
const ReachMatrixKind = "ReachMatrix"

// ReachCell is what is open from one party to another.
type ReachCell struct {
	// From and To are texts of Parties.
	From string `json:"from"`
	To   string `json:"to"`
	Opening
}

// Matrix says who reaches whom among the workloads of a namespace, with networks outside; of all
// namespaces if it is empty. The error says that there is no such namespace, or too much to ask about.
func (x *Explainer) Matrix(namespace string) (*ReachMatrix, error) {
	pods := x.cluster.Pods
	if namespace != "" {
		var known bool
		if pods, known = x.podsIn(Target{Kind: KindNamespace, Name: namespace}); !known {
			return nil, unknown(KindNamespace, namespace)
		}
	}
	s := newSurvey(x)
	ends, left := x.podsByName(pods)
	workloads := s.workloadsOf(ends)
	outside := s.networks()
	all := slices.Concat(workloads, outside)
	if len(all) > MaxMatrix {
		return nil, fmt.Errorf("%d workloads and networks are too many for a matrix, which has at most %d: ask about one namespace, or about one workload without --matrix", len(all), MaxMatrix)
	}
	m := &ReachMatrix{APIVersion: APIVersion, Kind: ReachMatrixKind, Namespace: namespace, Parties: []Party{}, Cells: []ReachCell{}, Notes: left}
	place := map[Party]int{}
	for i, p := range all {
		m.Parties = append(m.Parties, p.Party)
		place[p.Party] = i
	}
	var rows []ReachRow
	for _, subject := range workloads {
		rows = append(rows, s.rows(subject, all, func(peer member) (from, to member) { return subject, peer })...)
		rows = append(rows, s.rows(subject, outside, func(peer member) (from, to member) { return peer, subject })...)
	}
	slices.SortStableFunc(rows, func(a, b ReachRow) int {
		return cmp.Or(cmp.Compare(place[a.From], place[b.From]), cmp.Compare(place[a.To], place[b.To]))
	})
	for _, row := range rows {
		m.Cells = append(m.Cells, ReachCell{row.From.String(), row.To.String(), row.Opening})
	}
	m.Notes = append(m.Notes, unknownNotes(rows)...)
	m.Notes = append(m.Notes, x.stagedNotes(func(key policy.Key) bool {
		return namespace == "" || key.Namespace == "" || key.Namespace == namespace
	})...)
	return m, nil
}
