package generate

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// Options say what is generated.
type Options struct {
	// Namespaces are those whose workloads get policies; empty: all.
	Namespaces []string
	// ShortestIPv4 and ShortestIPv6 are the lengths, in bits, of the shortest prefixes to which addresses outside
	// the cluster are grouped. 32 and 128 group none.
	ShortestIPv4, ShortestIPv6 int
	// Rare: a peer of which fewer connections than this were seen gets a comment that says so.
	Rare int
	// IsolateUnseen gives policies to workloads of which no connection was seen, too. They allow DNS alone.
	IsolateUnseen bool
	// Staged marks the policies, so that podfence tells what they would deny and denies nothing by them.
	Staged bool
	// Judge are the agents' choices that change verdicts.
	Judge policy.JudgeOptions
}

// Seen is what is known of connections.
type Seen struct {
	Flows []*flows.Flow
	// Left counts flows that were left out before, as whoever has read them could tell that they need no
	// rule, or what they are could not be told.
	Left map[Reason]int
	// Missing says, a sentence each, what was not seen, such as the flows of a node whose agent does not answer.
	Missing []string
}

// Result is what is generated.
type Result struct {
	// Policies are in the order of their namespaces and names.
	Policies []Policy
	Report   Report
}

// Policy is a NetworkPolicy and what is said of it.
type Policy struct {
	*networkingv1.NetworkPolicy
	// Of are the workloads that it selects the pods of: more than one if their labels do not tell them apart.
	Of []explain.Object
	// Comments are for who reads it, by the path of what they are about, such as "spec.ingress[0].from[1]". That
	// with an empty path is about the policy.
	Comments map[string]string
}

// GeneratedAnnotation marks policies that were generated, by the value "true". One that does not have it is
// somebody else's, whose name no generated policy takes.
const GeneratedAnnotation = "podfence.io/generated"
