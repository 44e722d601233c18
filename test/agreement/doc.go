// Package agreement holds three answers to one question against each other:
// does this packet pass?
//
//	policy.Judge     what the API objects say, read as a person would
//	Table.Trace      what the table says that came of them
//	lab.Probe        what a kernel with that table does to a real packet
//
// A Cluster is a lab whose node is fenced. Replace makes it enforce a snapshot
// from scratch, Set changes what it enforces by an incremental plan, as the
// agent does, and Check sends packets and compares. Revoke compares the verdicts
// with the marks of the flows that earlier packets have begun. Settle says which host
// really has which address, where the snapshots are not to be believed. The addresses are those of
// package random: its nodes, their pod ranges, and its outside.
package agreement
