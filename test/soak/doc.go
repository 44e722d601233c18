// Package soak lets podfence run for a while: a real API server, the agent as a
// process of its own, and real packets, while pods, policies, namespaces and nodes
// come, change and go at random.
//
//	go test -count 1 -timeout 30m -v ./test/soak -soak 10m -seed 7
//
// After each burst of changes, a settling time later, packets get the verdict
// that policy.Judge gives on the objects as they were written. Beside that runs
// traffic whose verdict no change touches: all of it must pass, or none. What
// the agent takes of the machine stays flat, and once all objects are deleted
// its table is what it was before.
//
// A seed repeats the objects and the packets, but not the clock.
package soak
