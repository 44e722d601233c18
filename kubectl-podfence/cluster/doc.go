// Package cluster reads a cluster from its API server, as questions about policies need it.
//
//	read.go       Read: all kinds at once, and what a user who may not read them all is told
//	selectors.go  Selectors: what workloads select their pods by
//	custom.go     ClusterNetworkPolicies in the version that there is, PodAddresses, workloads
//	list.go       one kind, page by page; in some namespaces if not in all; errors
//
// It only lists and gets. A CronJob that has no pod stands for its next,
// by the same code as in files (package manifests). It judges nothing: that is for package explain.
package cluster
