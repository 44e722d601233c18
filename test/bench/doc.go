// Package bench measures podfence from end to end: a real API server, the agent
// as a process of its own, and real packets between pods of a lab's node. `make
// bench` runs it with the other rooms' benchmarks and writes docs/benchmarks.md,
// but for Carriers and AdmissionOfRanges, which are about a choice (docs/adr/0048), and for
// StatusWriter, by which no packet waits (docs/adr/0052).
package bench
