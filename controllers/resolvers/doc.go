// Package resolvers says which resolvers a cluster's pods ask for names: those of the Service that kubelet tells them
// (kube-system/kube-dns), and others that the agent is told, such as the address of a node-local cache.
//
//	resolvers.go  Of: the resolvers that a Service and its EndpointSlices are
//	watch.go      Watcher: watches those objects, and tells when the resolvers have changed
//
// What these resolvers answer decides which addresses a name has for policies. So whoever may write the Service, or
// EndpointSlices in its namespace, decides that too; docs/SECURITY.md says more.
package resolvers
