// Package truth proves the promise of docs/ARCHITECTURE.md's "One ADD": on a node, at
// every moment, an address that a container here may have is either fenced as the pod
// that really has it, or nothing passes to or from it.
//
// The promise is held against a truth that knows nothing of podfence: a simulated
// node (world_test.go) whose kubelet, container runtime, allocator of addresses and API
// server do what real ones do (steps_test.go): they reuse addresses soon, report late,
// repeat themselves, lose a DEL, restart, forget. An address may be in use from when an
// ADD hands it out until its DEL or a GC, whatever the API server says, forgets or
// repeats in between. The oracle (oracle_test.go) looks at the truth and at the table,
// after every step.
//
// Two agents go through the histories. One is the model and the table alone
// (paper_test.go): thousands of steps a second. The other is real, with its socket, its
// folder, its restarts and the kernel's table, between containers that send and get real
// packets (real_test.go).
//
//	go test ./test/truth -histories 5000 -seed 7
//	make truth DURATION=10m
//
// A failing history is shrunk: what is left is said in plain words. test/faults shows that
// faults are found.
//
// Of a pod on another node only the API server speaks, so nothing is promised of its
// address. Nor is it of a container that the agent has lost its note of, while the API
// server shows its address at a pod of this node: then that is believed. And where the
// runtime tells no UID, the agent cannot tell a pod from an earlier one of its name that
// it still knows: the container is fenced as that one's until it is made anew.
package truth
