// Package connectivity finds out whether a NetworkPolicy is enforced between two pods, by real
// connections: what the chart's test runs, in a server's pod and in a client's.
//
//	check.go  the client: one connection that must pass, and one that must not
//	serve.go  the server: answers on its ports with its name
//
// It knows addresses, ports and TCP, and nothing of Kubernetes: it asks no API server, so its pods need
// no rights.
package connectivity
