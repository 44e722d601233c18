// Package announcements tells the API server the addresses of this node's new pods, before their
// status shows them, so that the agents of other nodes know them from a pod's first packet on.
//
//	announcer.go  Announcer: what to announce, and until when; an ADD waits until it is written
//	write.go      one object for the node, written whole
//	trust.go      Trust: whether the API server refuses what is said of other nodes' pods
//
// What the agents of other nodes announce, controllers.PodAddressesReconciler reads, and package
// policy says what counts of it.
package announcements
