// Package observer keeps what was last seen of denied packets and of connections, for whoever observes.
//
//	store.go    Store: the last flows, and who waits for the next
//	droplog.go  DropLog: a line of JSON for each denial, on standard output or in a file
package observer
