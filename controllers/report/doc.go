// Package report says what has come of changes: in the log, by metrics, by Events, and by whether
// the agent is ready.
//
//	report.go      outcomes of the enforcer, one after another
//	addresses.go   addresses that are closed, or that other nodes' pods show wrongly
//	committed.go   what a commit is of
//	tampering.go   what others have done to the tables
//	problems.go    a Warning Event for each policy that cannot be enforced as written
//	staged.go      an Event on each object that is staged, or stages what is in it
//	findings.go    a Warning Event for each policy with a part that means nobody
//	pods.go        pods that cannot be kept or connected as they ask for
//	health.go      in which conditions the node is not as it should be
//	memory.go      that memory is short, and whose policies take most
//	events.go      creates Events, beside all else
//	metrics.go     what is counted as it happens
//	gathered.go    what is worked out when somebody asks for the metrics
//	drops.go       what the kernel's rules have counted
//	counting.go    which policies have metrics of their own
//	enforcement.go  how long policies take to be enforced
//	node.go        connection tracking, and pods that wait
//	warn.go        the level warn, and lists that are shortened
package report
