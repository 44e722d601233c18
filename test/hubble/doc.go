// Package hubble runs Hubble's own programs, the hubble CLI and hubble-relay, against the agent's server of
// Hubble's API, with flows that it makes up. `make test-hubble` builds them, of the version of Cilium that
// the server is built with (stock/go.mod), and runs the tests; it needs no root.
//
//	programs_test.go  the programs, the servers and their flows
//	cli_test.go       the CLI and its filters
//	relay_test.go     hubble-relay over two nodes, with the certificates of docs/HUBBLE.md
package hubble
