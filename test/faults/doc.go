// Package faults shows that the random suites find faults. Each patch of testdata is one:
// a fault that podfence has had, put back into the code of today, or a mutation, which
// nobody has made yet. A suite of random cases must find it in ten minutes, without the
// test that was written for it.
//
//	make faults                                   all of them, one after another (root; hours)
//	make faults FAULTS="orphans-open uid-not-compared" SEEDS="1 7"
//
// The suites' flags, and how to see a find again, are in suites_test.go and in what the
// runner prints. What was found, and after how many cases, is README.md's table, which the
// runner writes; `go test` alone holds patches and table to the code: each fits it, and
// each has been found.
//
// # A patch
//
// It begins with lines of the form "Key: value", and a sentence that says what is wrong.
//
//	Suite: truth          the suite that finds it
//	Kind: fault           podfence has had it; or "rules" or "state", mutations of code
//	                      that decides what passes, or that goes from state to state
//
// The rest is a unified diff. Its line numbers mean nothing: what a hunk takes away, with
// the lines around it, must be in the file once. The faulty file is laid over the tree's
// (go help build, -overlay), which stays as it is.
package faults
