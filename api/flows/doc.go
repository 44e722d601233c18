// Package flows has what an agent tells of denied packets and of connections: as lines of its drop log,
// to whoever observes by its query address, and, in Hubble's words, by Hubble's API.
//
//	flow.go  Flow: one denial, or one connection that has begun or ended
package flows
