// Package flows has what an agent tells of denied packets and of connections: as lines of its drop log,
// to whoever observes by its query address, and, in Hubble's words, by Hubble's API.
//
//	flow.go    Flow: one denial, one connection that has begun or ended, or what staged policies would change
//	query.go   Query: which flows are asked for at Path, and Missed, which is in the answer as well
//	filter.go  Filter: which flows are meant
//	end.go     End: which ends of flows are meant
package flows
