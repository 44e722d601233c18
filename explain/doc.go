// Package explain answers questions about policies: why does A reach B, or not, and what would have to
// change. It is pure: a Cluster and a Question go in, an Explanation comes out, a value that is printed
// as text or as JSON. It has no client, clock, file or kernel.
//
// What comes in:
//
//	cluster.go      Cluster: the objects that questions are about
//	question.go     Question, and what people write: "deploy/shop/web", "svc/shop/web:80", "10.0.0.1"
//
// What goes out:
//
//	explanation.go  Explanation, and how it reads as JSON
//
// The verdict is policy.Judge's. This package adds what Judge leaves out: what names stand for, which
// rules nearly allowed a packet, which ports are open, and what policies do not decide.
package explain
