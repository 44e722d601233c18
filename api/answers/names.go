package answers

import (
	"net/netip"
	"time"
)

// Names are what the domain names in policies are resolved to on a node, at the moment of Time, by the node's clock.
type Names struct {
	TypeMeta `json:",inline"`
	// Node is the name of the node.
	Node string    `json:"node"`
	Time time.Time `json:"time"`
	// Names are in order of their names and addresses.
	Names []Name `json:"names"`
	// Lapsed are the last ones whose time is over, and that nobody was told again.
	Lapsed []Name `json:"lapsed,omitempty"`
}

// AnsweredBy is the name of the node whose agent has answered.
func (n *Names) AnsweredBy() string { return n.Node }

// Name is one address that somebody was told a domain name has.
type Name struct {
	// Name is the name that was asked for, in lower case and without a dot at its end.
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	// PodAddress is that of the pod that was told, for which alone it counts. It is absent where the agent itself was told, which
	// counts for all pods of the node, in rules that have this very name.
	PodAddress netip.Addr `json:"podAddress,omitzero"`
	// Namespace and Pod name the pod, if it is known whose address that is.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	// Expires is when it counts for new connections no more.
	Expires time.Time `json:"expires"`
}
