// Package names learns which addresses domain names have, for policies that name some, by what the node's pods are told by
// DNS.
//
// The kernel hands over what pods ask and holds what they are told (ruleset/dns.go), as long as a policy with domain names
// is about some pod of the node. A reply waits until what it says is in the kernel, and then goes on as it was. It goes on
// at once where it says nothing new, and after HoldAtMost in any case: an agent that is slow costs names, and not DNS.
// Whoever is told something counts as the pod that has its address, and no other may use it.
//
//	learner.go  keeps the names table, the queue and the log, as long as there is somebody to learn for
//	replies.go  what becomes of a reply
//	metrics.go  what was learned, held and ignored
package names
