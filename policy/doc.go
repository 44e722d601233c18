// Package policy says what NetworkPolicies mean.
//
// It is pure: API objects go in, plain values come out. It has no client, no
// clock, no logger and no netlink, so all of it can be tested by tables.
//
//	Parse      one NetworkPolicy, read once: selectors, ranges, ports
//	Change     an object of the API or an attachment as it is now, or its end;
//	           a value, and the only way into the model (change.go)
//	Model      the cluster, kept up to date by changes; Take hands out what has
//	           changed for one node's pods
//	Compile    the same from scratch: slow, obvious, the Model's specification
//	Judge      the verdict on one packet straight from the API objects, with
//	           the policy and rule that gave it; reads them by itself, and shares
//	           nothing that decides with the two above, so that each can be tested
//	           against the other
//
// Words: a subject is a pod of the node that has an address, a peer what a policy's
// rules name. A subject is isolated for a direction when some policy selects it and lists
// that direction in its policyTypes; it then gets only what a rule allows.
//
// In Policy and Rule, as in the API, an absent list and an empty one differ in
// meaning from place to place; each field says which it is. Values that leave
// this package are sorted and must not be changed by whoever gets them.
package policy
