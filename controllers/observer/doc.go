// Package observer keeps what was last seen of denied packets and of connections, for whoever observes.
//
//	store.go        Store: the last flows, and who waits for the next
//	denials.go      Denials: tells of packets that this node denies
//	repeats.go      of denied flows that were told, how often they were denied again
//	misses.go       Misses: tells denials with their near miss, if that is known in time
//	nearest.go      Nearest: which rule has nearly allowed a packet
//	names.go        ModelNames: who has an address
//	naming.go       Naming: names the Services that flows have asked for
//	service.go      which Service has an address, as far as the API server has said so of late
//	connections.go  Connections: tells of those that begin and end, while somebody observes
//	droplog.go      DropLog: a line of JSON for each denial, on standard output or in a file
package observer
