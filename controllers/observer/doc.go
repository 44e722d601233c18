// Package observer keeps what was last seen of denied packets and of connections, for whoever observes.
//
//	store.go  Store: the last flows, and who waits for the next
package observer
