// Package policy says what NetworkPolicies mean.
//
// It is pure: API objects go in, plain values come out. It has no client, no
// clock, no logger and no netlink, so all of it can be tested by tables.
//
//	Parse      one NetworkPolicy, read once: selectors, ranges, ports
//	Model      the cluster, kept up to date by one call per changed object;
//	           Take hands out what has changed for one node's pods
//	Compile    the same from scratch: slow, obvious, the Model's specification
//	Judge      the verdict on one packet straight from the API objects, with
//	           the policy and rule that gave it; shares no more with the two
//	           above than how an object's identity and addresses are read, so
//	           that each can be tested against the other
//
// Words: a subject is a pod that a policy selects, a peer what its rules name.
// A subject is isolated for a direction when some policy selects it and lists
// that direction in its policyTypes; it then gets only what a rule allows.
//
// In Policy and Rule, as in the API, an absent list and an empty one differ in
// meaning from place to place; each field says which it is. Values that leave
// this package are sorted and must not be changed by whoever gets them.
package policy
