// Package chaos makes the faults happen that podfence must hold under, on a lab's
// network namespaces, with live traffic, and counts what passed that should not
// have, and what was cut that should have passed. docs/RELIABILITY.md has the table.
//
//	make chaos
//	go test -count 1 -timeout 0 -v ./test/chaos -chaos -run TestAgentKilled
//
// A fault is a test, in the file of its kind. It ends with record. Without -chaos,
// as in `make test`, each fault happens a few times only (see times).
//
// The tests share a world (one API server, one lab), and use it one after the other,
// each by a trial:
//
//	world     API server with objects that change (test/churn), a node with pods,
//	          a second one to compare tables on
//	trial     steady traffic (test/steady), the agent as a process (test/agent) and
//	          its way to the API server, or an agent in this process (unowned) whose
//	          table has no owner, as on older kernels
//	edge      a node of its own, whose pods the CNI plugin connects (test/fence)
//	meddler   a proxy of the API server that has watches fail
package chaos
