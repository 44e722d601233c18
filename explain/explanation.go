package explain

import (
	"net/netip"
)

// APIVersion is the version of the JSON that the values of this package make. Within it, fields are
// added, and none is removed or changes its meaning.
const APIVersion = "explain.podfence.io/v1"

// Explanation is the answer to a Question.
type Explanation struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // Explanation
	// Question is what was asked, in words.
	Question string `json:"question"`
	// Verdict sums the answers up: Allowed, Denied, Mixed or Unknown. Where some of the ends have no answer,
	// it is Mixed, or Unknown if none has.
	Verdict Verdict `json:"verdict"`
	// Answers are the distinct ones: pods of a workload for which everything is the same share one.
	Answers []Answer `json:"answers,omitempty"`
	// Notes are about the question as a whole, such as a Service without endpoints.
	Notes []Note `json:"notes,omitempty"`
	// Unanswered are those of the Notes that say of some of the ends why there is no answer, such as a pod of
	// a workload without an address. Pods that have ended are not among them: they take no part.
	Unanswered []Note `json:"-"`
}

// ExplanationKind is the kind of an Explanation.
const ExplanationKind = "Explanation"

// Verdict is what becomes of packets.
type Verdict string

// The verdicts.
const (
	Allowed Verdict = "Allowed"
	Denied  Verdict = "Denied"
	// Mixed: the answers differ, some of the ends have an answer and others none, or no port was asked for and
	// some are open. The others are closed, or nobody knows of them.
	Mixed Verdict = "Mixed"
	// Unknown: policies do not decide it, or there is nobody to ask about. The notes say why.
	Unknown Verdict = "Unknown"
)

// Answer is what becomes of packets between two ends.
type Answer struct {
	From End `json:"from"`
	To   End `json:"to"`
	// Pairs is for how many pairs of ends the answer holds, of which From and To are one.
	Pairs int `json:"pairs"`
	// Service says what translated the packet, if it was sent to a Service. Nothing translates what is sent
	// to a headless one.
	Service *Translation `json:"service,omitempty"`
	// Protocol and Port are what was asked about, after translation. They are absent when the question
	// was which ports are open.
	Protocol string  `json:"protocol,omitempty"`
	Port     uint16  `json:"port,omitempty"`
	Verdict  Verdict `json:"verdict"`
	// Egress is what the policies of From say, Ingress what those of To say.
	Egress  Side `json:"egress"`
	Ingress Side `json:"ingress"`
	// Open are the ports that are open, where none was asked about.
	Open []OpenPorts `json:"open,omitempty"`
	// Unknown are ports of which nobody knows, where none was asked about: a rule names addresses, and the
	// pod has none yet.
	Unknown []OpenPorts `json:"unknown,omitempty"`
	// WithStaged is what would be with the staged policies in force; nil: none is about either end.
	WithStaged *RehearsedAnswer `json:"withStaged,omitempty"`
	// Notes are what policies do not decide, but whoever asks should know.
	Notes []Note `json:"notes,omitempty"`
	// Kernel is what the kernels of the nodes concerned do, if they were asked.
	Kernel []Verification `json:"kernel,omitempty"`
	// Probes are the packets by which they can be asked.
	Probes []Probe `json:"-"`
}

// End is one end of a connection.
type End struct {
	Kind      Kind       `json:"kind"`
	Namespace string     `json:"namespace,omitempty"`
	Name      string     `json:"name,omitempty"`
	Address   netip.Addr `json:"address,omitzero"`
	// Node is where it is, if that is known.
	Node string `json:"node,omitempty"`
	// Workload is what the pod belongs to: the topmost owner that is known.
	Workload *Object `json:"workload,omitempty"`
	// StandIn: the pod stands for pods that are not there, and its address is a placeholder.
	StandIn bool `json:"standIn,omitempty"`
}

// Object names an object of the API.
type Object struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Translation is what a Service did to a packet.
type Translation struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Port is the Service's, TargetPort that of the endpoint.
	Port       uint16 `json:"port"`
	PortName   string `json:"portName,omitempty"`
	TargetPort uint16 `json:"targetPort"`
}

// Side is what is decided at one end.
type Side struct {
	Verdict Verdict `json:"verdict"`
	// EnforcedAt is the node whose agent enforces it; empty if nobody does, or it is not known.
	EnforcedAt string `json:"enforcedAt,omitempty"`
	// Reason says in words why the verdict is what it is.
	Reason string `json:"reason"`
	// Policies are those that are about the pod in this direction, in the order in which they are asked.
	Policies []PolicyRef `json:"policies,omitempty"`
	// Rules decided it.
	Rules []Rule `json:"rules,omitempty"`
	// NearestMisses are rules that would have allowed the packet if not for what failed, nearest first.
	NearestMisses []Miss `json:"nearestMisses,omitempty"`
	// Staged are policies that are about the pod in this direction and not in force, as they are staged.
	// WithStaged is what would be decided with them in force; nil if there are none.
	Staged     []PolicyRef `json:"staged,omitempty"`
	WithStaged *Rehearsal  `json:"withStaged,omitempty"`
}

// PolicyRef names a policy and its tier.
type PolicyRef struct {
	Kind      string `json:"kind"` // NetworkPolicy or ClusterNetworkPolicy
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Tier is Admin or Baseline of a ClusterNetworkPolicy, and NetworkPolicy of a NetworkPolicy.
	Tier string `json:"tier"`
	// Priority is a ClusterNetworkPolicy's.
	Priority *int32 `json:"priority,omitempty"`
	// Staged: it is not in force, by its annotation podfence.io/enforcement or by that of its Namespace.
	Staged bool `json:"staged,omitempty"`
}

// Rule is a rule of a policy.
type Rule struct {
	Policy PolicyRef `json:"policy"`
	// Action is Accept, Deny or Pass; Accept for rules of NetworkPolicies.
	Action string `json:"action"`
	// Name is the rule's own, which those of ClusterNetworkPolicies may have.
	Name string `json:"name,omitempty"`
	// Path is the field that decided, such as "spec.ingress[0].from[1]", and PortPath that of the port,
	// such as "spec.ingress[0].ports[0]".
	Path     string `json:"path"`
	PortPath string `json:"portPath,omitempty"`
	// Domain is by which domain name it means the peer; nil: by none.
	Domain *Domain `json:"domain,omitempty"`
	// Source is where it is written, if the objects are from files.
	Source *Source `json:"source,omitempty"`
}

// Source is a place in a file.
type Source struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// Miss is a rule that does not mean a packet, and why.
type Miss struct {
	Rule   Rule       `json:"rule"`
	Failed []Mismatch `json:"failed"`
}

// Mismatch is one field that does not mean a packet.
type Mismatch struct {
	// Path is the field, Reason says in words what is wrong, such as "label app=web: the pod has app=webb".
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// OpenPorts are ports of one protocol, in order.
type OpenPorts struct {
	// Protocol is TCP, UDP or SCTP, or other for ICMP and every other protocol. Policies know no ports of
	// these, so that their Ports are "all".
	Protocol string `json:"protocol"`
	// Ports are ranges such as "80", "8000-8080" and "all".
	Ports []string `json:"ports"`
}

// Note is what policies do not decide.
type Note struct {
	// Reason is a word for programs, such as PodNotReady, and Message a sentence for people.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}
