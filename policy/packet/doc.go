// Package packet says what a packet is, for the code that judges packets: the policies' verdict
// function, the tracer of rules, and the code that lists the kernel's flows.
//
//	packet.go    Packet, the first packet of a connection
//	protocol.go  Protocol, an IP protocol by its number
//
// It imports nothing of the project, so that rooms which know nothing of Kubernetes can share
// these words with those that do.
package packet
