// Package observer keeps what was last seen of denied packets and of connections, for whoever observes.
//
//	store.go        Store: the last flows, and who waits for the next
//	denials.go      Denials: tells of packets that this node denies
//	misses.go       Misses: tells denials with their near miss, if that is known in time
//	nearest.go      Nearest: which rule has nearly allowed a packet
//	names.go        ModelNames: who has an address
//	connections.go  Connections: tells of those that begin and end, while somebody observes
//	droplog.go      DropLog: a line of JSON for each denial, on standard output or in a file
package observer
