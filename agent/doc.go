// Package agent puts the parts together that fence one node's pods:
//
//	source -> enforcer -> kernel
//	             |
//	             +-> report, network
//
//	agent.go      the parts, whatever they work on, and how they start and stop
//	open.go       on a real node: the connections to its kernel, and its network
//	health.go     /healthz and /readyz, and what makes the node unhealthy
//	checks.go     what is looked at, now and then, to know whether the node is healthy
//	names.go      which addresses domain names have: what pods are told, and what the agent is
//	observe.go    the flows that are kept: denied packets, connections while somebody observes; the drop log
//	answers.go    the answers to questions about the agent and its node
//	hubble.go     Hubble's API, and the agents of all nodes
//	nodename.go   whether --node-name is the name of a Node
//	kinds.go      the kinds of objects, without asking the API server
//	buildinfo.go  the metric that says what runs here
//
// The program, the demo and the tests' nodes all use it.
package agent
