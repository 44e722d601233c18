// Package bytecode runs the rules of nf_tables as the kernel has them, for one packet, as the kernel
// would run them.
//
// A rule in the kernel is a program of expressions on registers. This package decodes the expressions
// that were read back over netlink and interprets them. It knows the expressions that package kernel
// writes, with the attributes that it writes, and nothing else: any other, such as a rule that somebody
// has added by hand may have, is an error that names it. So a verdict is what the kernel's own rules
// say, or there is none.
//
// Of a packet, a nft.TracePacket says what podfence's rules ask for, and not the whole: not the source
// port, for instance. Each bit that it does not say is unknown, in headers as in registers. A comparison
// that does not depend on unknown bits has a result; any other is an error.
//
//	run.go         Run: a packet's way through base chains
//	rule.go        Rule, Base and Ruleset: what is read back
//	expression.go  an expression and its attributes, strictly read
//	registers.go   registers, whose bits are known or not
//	packet.go      a packet as bytes, which are known or not
//	load.go        expressions that load parts of the packet
//	match.go       expressions that compare and look up
//
// It is pure: netlink is package kernel's, which implements Ruleset. ruleset/nft/trace.go is the other
// interpreter: of what the agent believes to be in the kernel.
package bytecode
