// Package nft holds nftables' own things as values: tables with their sets, chains and rules,
// and the operations that change them.
//
// It is pure, and knows nothing of Kubernetes or of what podfence's tables mean: package ruleset
// makes tables of it, and package ruleset/kernel carries its plans out.
//
//	table.go        Table; the order in which its base chains run
//	chain.go        Chain, Hook and the priorities
//	rule.go         Rule, Origin and Verdict
//	match.go        Match: a condition that a rule has for packets
//	examples.go     a match of every type, for tests
//	field.go        Field: a part of a packet that can be looked up, and its datatype
//	datatype.go     Datatype: a kind of value, its width, its text, its bytes in the kernel
//	settype.go      SetType: what the elements of a set are made of
//	element.go      Element, and the order of elements
//	set.go          Set and verdict map; how long a set lives
//	comment.go      a text as a comment
//	plan.go         Plan and Op: operations of one transaction
//	replacement.go  the plan that replaces whatever the kernel has by a whole table
//	text.go         a table as nft reads it
//	plantext.go     a plan as nft reads it
//	packet.go       TracePacket: a packet with all that a rule can ask of it
//	connevent.go    ConnEvent: a connection has begun or ended
//	logged.go       Logged: a packet that an nflog group was told of
//	datagram.go     Datagram and Queued: a packet that was handed over whole
//	counters.go     Counters: what the rules of a table have counted
//	visit.go        Visit: what the kernel is asked about a packet, and what it answers
//	openflow.go     OpenFlow: a flow that is open, with what it is judged by
//	trace.go        Trace: the way that a packet takes through a table
//	refusal.go      Refusal: the error of a plan that the kernel refuses
//	tampering.go    Tampering: what somebody else has done to a table
package nft
