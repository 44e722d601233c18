// Package cluster reads a cluster from its API server, as questions about policies need it.
//
//	read.go    Read: all kinds at once, and what a user who may not read them all is told
//	custom.go  ClusterNetworkPolicies in the version that there is, PodAddresses, workloads
//	list.go    one kind, page by page; in some namespaces if not in all; errors
//
// It only lists and gets. It judges nothing: that is for package explain.
package cluster
