// Package agents finds podfence's agents in a cluster, and asks them.
//
//	ask.go      Agent, and Ask: one HTTP request and its answer, over whatever leads to the agent
//	stream.go   Stream: an answer that is read line by line as it comes
//	forward.go  the way to an agent's loopback address by the API server: port-forward
//	pods.go     Client: which pods are agents; what their flags say; the cluster's nodes
//
// An agent answers on a loopback address of its node only, so that no pod and no other host can ask it. Who
// may port-forward to its pod can (the right to create pods/portforward in its namespace).
package agents
