// Package names has pods connect to domain names, with a real agent between them, a resolver and the world.
//
// What is asked is the resolver's word: each answer has another address. What arrives is the world's word: it counts the
// SYNs that come to it, and the pod those that it has sent.
//
//	go test -count 1 -v ./test/names -connections 1000
package names
