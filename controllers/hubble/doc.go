// Package hubble serves Hubble's API, by which the hubble CLI, hubble-relay and Hubble's UI read what an
// agent keeps of denied packets and connections. Hubble is the observability part of Cilium; its API is
// github.com/cilium/cilium/api/v1, of which docs/HUBBLE.md says what is filled in.
//
//	server.go    Server: where it listens, and what clients may take at once
//	clients.go   who may connect, and what becomes of clients that do not read
//	tls.go       which addresses need TLS, and mutual TLS whose files may change
//	service.go   the calls, but for two: how the server is, nodes, namespaces
//	query.go     GetFlows: which flows are asked for, in which order they are sent, and which were lost
//	peers.go     Notify: the agents of all nodes, for hubble-relay
//	flow.go      a flow in Hubble's words
//	endpoint.go  its two ends: labels and identities, in Cilium's form
//	filter.go    filters: their fields, and which of them no flow can match
//	match.go     what each field of a filter means
//	mask.go      field masks: which fields of a flow a client wants
package hubble
