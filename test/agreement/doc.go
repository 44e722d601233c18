// Package agreement holds four answers to one question against each other:
// does this packet pass?
//
//	policy.Judge     what the API objects say, read as a person would
//	Table.Trace      what the table says that came of them
//	Reader.Trace      what the rules say that the kernel has, read back
//	lab.Probe        what a kernel with that table does to a real packet
//
// A Cluster is a lab whose node is fenced. Replace makes it enforce a snapshot
// from scratch, Set changes what it enforces by an incremental plan, as the
// agent does, and Check sends packets and compares. Settle says which host really has which
// address, where the snapshots are not to be believed. The addresses are those of
// package random: its nodes, their pod ranges, and its outside.
//
// A Case is a packet as its hook sees it, the Wire that it is sent by, the Treatment that
// others' rules give it, and what is sent after it, by a Follow each: so connection tracking
// has it in each of its states by real packets before it. Resume goes on with flows after a
// change, and Revoke compares the verdicts with the marks of all flows.
//
// What the node's kernel tells of denied packets is held against the same: of each denied flow once, with
// the reason and the policies, and of nothing that passes (told.go).
//
// Some policies are staged. They must change none of the answers; and the staged table must tell of each flow that passes,
// and that the same judge says to be denied once they are in force, and of no other (staged.go).
//
// policy.Judge says what may begin. judge.go here says what becomes of all else, and what the
// node's stack refuses, whatever a table says.
package agreement
