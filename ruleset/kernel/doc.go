// Package kernel carries a nft.Plan out in the kernel, over netlink.
//
//	Open       connects, and finds out early whether the kernel has all that is needed
//	Apply      one Plan, one table, one netlink transaction
//	Check      the same, but the kernel undoes it
//	Watch      notices what others do to the tables
//	OpenReader reads back what packets meet, and runs it
//	Uninstall  removes the tables
//	Close      closes the connection; the tables stay
//
// It decides nothing: it translates the values of package ruleset/nft for nf_tables. What it
// writes is, expression for expression, what nft writes for the text of these values, so
// that "nft list ruleset" can always print it; the tests check that. It
// remembers nothing of the table either, so a Conn can be closed and another
// opened at any time.
//
// # What a crash leaves
//
// The kernel handles a batch in one go, while the sender waits in sendmsg(2):
// it commits the whole batch or, at the first message that it refuses, none of
// it (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c). Packets meet the old
// table or the new one, never a mixture: rules and sets carry a generation, and
// the commit moves to the next one. So a process that dies
//
//   - before sendmsg has changed nothing;
//   - in sendmsg, or before it has read the answer, has changed all or nothing,
//     and its successor can't tell which. It therefore starts with a Plan that
//     has Replace set, which is right in both cases.
//
// The table belongs to the network namespace and not to the process: it goes on
// judging packets after the process has gone, however it went. A table that a Conn
// owned (Options.Own) has no owner then, and the next Conn can replace it.
//
// A Plan that replaces an existing table leaves its base chains where they are,
// if they are as they must be, and changes only their rules (inplace.go).
//
// # Files
//
//	conn.go       Conn: opens, applies, checks, uninstalls
//	probe.go      tries whether a kernel has what it must have
//	encode.go     a plan as messages
//	sets.go       sets and elements as values of the library
//	timed.go      timed sets read back, for the next agent
//	rules.go      rules as expressions
//	fields.go     fields as expressions, with what they depend on
//	batch.go      a batch of messages, and the answers to it
//	socket.go     the socket that a batch goes through
//	inplace.go    a replacement that leaves base chains where they are
//	ahead.go      sets of ranges come before the rules that look them up
//	slices.go     a transaction that is too large for one
//	errors.go     what errors mean
//	watch.go      Watch: what others do to the tables
//	ranges.go     what sets of address ranges hold
//	reader.go     Reader: what the kernel would do to a packet, by what it has
//	readset.go    one element of a set, by its key
//	pathof.go     which links a packet takes
//	flowsof.go    the flows of one kind of packet
//	counters.go   Counters: what each rule has counted
//	elementcounters.go  ElementCounters: what an element of a set has counted
//	flows.go      Flows: connection tracking; marks flows that are no longer allowed
//	judgement.go  by what a flow is judged
//	openflows.go  which flows other rules would cut
//	flowentry.go  an entry of connection tracking
//	connevents.go  ConnEvents: connections that begin and end, while somebody observes
//	connevent.go  one of connection tracking's events
//	connsample.go  which connections are told when there are too many
//	sysctl.go     settings of a network namespace
//	logged.go     LogReader: what an nflog group is told
//	loggedpacket.go  one packet of that
//	nflog.go      a socket that an nflog group is told by
//	datagrams.go  DatagramReader: what an nflog group is told, whole and at once
//	queue.go      Queue: packets that wait in an nfqueue
//	heartbeat.go  Heartbeat: packets by which rules see that the process is not frozen
//	queueing.go   how rules queue packets
//	forget.go     ends flows by their addresses
//	local.go      which addresses the namespace takes for its own
//	line.go       answers to a dump, one after another
//	userdata.go   numbers in nft's own data, in the order of the machine
//	attributes.go  attributes of an answer, read in place
//
// Package bytecode, below, runs rules as they were read back.
//
// # Which kernels
//
// What is written here needs 5.7 or later: ranges in concatenated keys, with the flag
// that says that a key is a concatenation. Open tries that instead of asking for a version, and
// names the kernel option when an expression is missing. docs/KERNELS.md has all that
// podfence uses.
package kernel
