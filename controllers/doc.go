// Package controllers feeds what an API server says into the enforcer: each object that its
// watches show becomes a policy.Change.
//
//	source.go                    Source: reading a cache and feeding are one step; the first load
//	node_controller.go           Nodes: their pod ranges and addresses
//	namespace_controller.go      Namespaces: their labels
//	pod_controller.go            Pods: this node's as subjects, all as peers
//	networkpolicy_controller.go  NetworkPolicies, and what of them cannot be enforced
//	lint.go                      what policies cannot mean, looked for now and then by a few agents
//	podaddresses_controller.go   addresses that other nodes' agents announce
//	services.go                  Services, read when a flow has asked for one
//	cache.go                     what the caches keep of each object
//	shares.go                    how much memory objects of a kind have, and each namespace of it
//	podsizes.go                  pods whose labels and ports there is no room for
//	policysizes.go               policies whose rules there is no room for
//	covered.go                   an ADD waits for the policies that the API server has for its pod
//
//	clusternetworkpolicy_controller.go  ClusterNetworkPolicies, whose kind may come and go
//	clusternetworkpolicy_fed.go         what is kept of them
//	clusternetworkpolicy_kind.go        asking for them, of whichever version there is
//
// There is no policy logic here, and no netlink. In rooms of their own are:
//
//	enforcer       the model's changes, one transaction after another
//	report         what has come of that: log, metrics, Events, readiness
//	attachments    what the CNI plugin says: whose an address of this node is
//	announcements  what other nodes are told of this node's new pods
//	network        the node's links and routes, and the plugin's files
//	manifests      the other source: a folder of YAML, without a cluster
//	nodes          changes of Node objects, for both sources
//	resolvers      which resolvers the cluster has
//	relist         what a watch has sent without some fields is read again
//
// Package agent puts them together.
package controllers
