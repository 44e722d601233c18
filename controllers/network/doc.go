// Package network keeps the node's links and routes what the cluster needs, by cni/node, and has
// the CNI plugin installed, by cni/install.
//
//	network.go    one round after another: when, and what follows of it
//	committed.go  for which nodes and pods: those that were committed
//	hostports.go  says whether hostPorts are served
package network
