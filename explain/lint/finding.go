package lint

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/podfence/podfence/explain"
)

// Finding is something that a policy says and that cannot be meant. It is a value; nothing changes it
// after it has left this package but the caller that owns it.
type Finding struct {
	// Rule names the kind of mistake.
	Rule Rule `json:"rule"`
	// Severity says how certain it is.
	Severity Severity `json:"severity"`
	// Object is the policy, or for EnforcementValue perhaps a Namespace.
	Object explain.Object `json:"object"`
	// Staged: the policy is not in force.
	Staged bool `json:"staged,omitempty"`
	// Path is the field, such as spec.ingress[0].ports[0].port.
	Path string `json:"path"`
	// Message is a sentence that names the mistake and the nearest thing that would be right.
	Message string `json:"message"`
	// Source is where the policy is written. Lint leaves it out; a caller that has read files sets it.
	Source *explain.Source `json:"source,omitempty"`
}

// Rule names a kind of mistake, in words that a program can compare and a person can search for.
type Rule string

// The kinds of mistakes.
const (
	// SelectsNothing: the policy's own podSelector or subject means no pod.
	SelectsNothing Rule = "selects-nothing"
	// PeerMatchesNothing: a peer means no pod, no namespace or no node.
	PeerMatchesNothing Rule = "peer-matches-nothing"
	// SplitPeer: podSelector and namespaceSelector are two list items and would have to be one.
	SplitPeer Rule = "split-peer"
	// NamedPort: no pod that a rule is about has a port of that name and protocol.
	NamedPort Rule = "named-port"
	// EmptyBlock: the excepts of an ipBlock leave none of its addresses.
	EmptyBlock Rule = "empty-block"
	// ExceptOutside: an except has no address of its ipBlock.
	ExceptOutside Rule = "except-outside"
	// PodAddresses: a block names addresses of pods, which change.
	PodAddresses Rule = "pod-addresses"
	// ServiceAddresses: a block names addresses of Services, which no packet has any more when policies
	// are asked.
	ServiceAddresses Rule = "service-addresses"
	// NoDNS: pods may reach others, but not the cluster's DNS.
	NoDNS Rule = "no-dns"
	// PolicyTypes: the policy has rules for a direction that its policyTypes leave out.
	PolicyTypes Rule = "policy-types"
	// AllowsNothing: each rule of a direction names peers that mean nobody.
	AllowsNothing Rule = "allows-nothing"
	// ShadowedRule: an earlier rule of the same ClusterNetworkPolicy decides all that this one would.
	ShadowedRule Rule = "shadowed-rule"
	// EnforcementValue: the annotation that stages policies has another value than that, so that it does nothing.
	EnforcementValue Rule = "enforcement-value"
	// ServicePort: a port is that of a Service, and not the one that its pods listen on.
	ServicePort Rule = "service-port"
	// ServiceName: a domain name is that of Services, whose address no packet has any more when policies are asked.
	ServiceName Rule = "service-name"
	// PublicSuffix: a wildcard means names that anybody can have.
	PublicSuffix Rule = "public-suffix"
)

// Severity says how certain a mistake is.
type Severity string

// The severities.
const (
	// Warning: this cannot be meant, and what is meant is near.
	Warning Severity = "Warning"
	// Info: this has no effect as the cluster is now. It may be meant for what comes later.
	Info Severity = "Info"
)

// String is the finding as one line: where it is written, if that is known, how certain it is, of which
// policy and field, what, and which kind of mistake.
func (f Finding) String() string { return f.text(explain.Plain) }

// Policy is the policy as people write it: NAMESPACE/NAME, or of what is in no namespace its kind and name.
func (f Finding) Policy() string {
	if f.Object.Namespace != "" {
		return f.Object.Namespace + "/" + f.Object.Name
	}
	return f.Object.Kind + " " + f.Object.Name
}

func (f Finding) text(style explain.Style) string {
	at, severity := "", string(f.Severity)
	if f.Source != nil {
		at = fmt.Sprintf("%s:%d: ", f.Source.File, f.Source.Line)
	}
	if f.Severity == Warning {
		severity = style.Denied(severity)
	}
	staged := ""
	if f.Staged {
		staged = " (staged)"
	}
	return fmt.Sprintf("%s%s %s%s %s: %s %s", at, severity, f.Policy(), staged, f.Path, f.Message, style.Quiet("["+string(f.Rule)+"]"))
}

// WriteText writes findings for people, a line each, in the order in which they are given. Its error is
// the writer's.
func WriteText(w io.Writer, findings []Finding, style explain.Style) error {
	for _, f := range findings {
		if _, err := fmt.Fprintln(w, f.text(style)); err != nil {
			return fmt.Errorf("writing findings: %w", err)
		}
	}
	return nil
}

// List is what is found, as it is written as JSON: of the version that all values of explain have.
type List struct {
	APIVersion string `json:"apiVersion"` // explain.APIVersion
	Kind       string `json:"kind"`       // ListKind
	// Items are the findings by policy, then by field. Without any it is an empty list, and not null.
	Items []Finding `json:"items"`
	// Notes say what could not be read of the cluster, so that nothing is found in it.
	Notes []explain.Note `json:"notes,omitempty"`
}

// ListKind is the kind of a List.
const ListKind = "FindingList"

// NewList is a list of these findings, with these notes.
func NewList(findings []Finding, notes []explain.Note) List {
	if findings == nil {
		findings = []Finding{}
	}
	return List{APIVersion: explain.APIVersion, Kind: ListKind, Items: findings, Notes: notes}
}

// sorted puts findings in order: by policy, then by field. Of several that say the same of one field,
// the first stays.
func sorted(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(compareObjects(a.Object, b.Object), comparePaths(a.Path, b.Path), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(findings, func(a, b Finding) bool {
		return a.Object == b.Object && a.Path == b.Path && a.Rule == b.Rule
	})
}

func compareObjects(a, b explain.Object) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// comparePaths has from[2] come before from[10].
func comparePaths(a, b string) int {
	as, bs := strings.Split(a, "["), strings.Split(b, "[")
	for i := range min(len(as), len(bs)) {
		x, restOfA, _ := strings.Cut(as[i], "]")
		y, restOfB, _ := strings.Cut(bs[i], "]")
		if i == 0 { // what comes before the first index
			restOfA, restOfB, x, y = x, y, "", ""
		}
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y), cmp.Compare(restOfA, restOfB)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(as), len(bs))
}
