// Package resolver asks the cluster's resolvers what the exact names of policies are resolved to, and again in time, so
// that a name's addresses are known before a pod has asked for it.
//
//	resolver.go  Resolver: the loop that asks what is due, with bounds on how much at once and how often
//	schedule.go  which question is due when
//	timing.go    how long an answer counts, and when to ask again
//	servers.go   which resolver to ask
//	exchange.go  one question and its answer, over UDP, or TCP where that is too short
//	message.go   what a reply says: addresses, as package dns reads them, or that there are none, and for how long
//	outbox.go    handing answers over without waiting
package resolver
