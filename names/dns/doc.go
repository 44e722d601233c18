// Package dns makes resolutions of the packets that pods and their resolvers exchange (RFC 1035): which addresses a pod was
// told that a name has which it has asked for. It is pure: packets and the time go in, answers come out. Nothing here
// sends, waits or reads a clock.
//
//	packet.go        Flow and Packet: what is handed in
//	tracker.go       Tracker: what pods have asked, and what they are told
//	bounds.go        how much a Tracker keeps, for how long, and what goes first
//	conversation.go  what was asked in one flow, and whether a reply is to it
//	stream.go        messages out of TCP's segments
//	message.go       reads headers, questions and names
//	answer.go        Answer: the addresses of a name, behind its aliases
//	reason.go        Reason: why something was ignored
//	query.go         Query: what the agent asks itself, read by the same rules
//
// What may be learned of a message is as little as a stub resolver needs: addresses of class IN, in the answer section of a
// reply to one question, which that pod has asked on that flow, with that ID, for that type. What is not understood is not
// learned, so that it stays closed; it is told by a Reason, so that it can be counted.
//
// Who controls a resolver decides what its pods' names resolve to; this package cannot see that a resolver lies. But
// whatever it says, a name gets no address that no peer outside the node can have (loopback, link-local and the like).
package dns
