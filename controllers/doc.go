// Package controllers brings the cluster to the kernel.
//
//	agent.go         puts the parts together for one node
//	*_controller.go  one reconciler a kind: what is in the cache goes into the
//	                 model; so does what is gone
//	manifests.go     the other source: a folder of YAML, without a cluster
//	enforcer.go      the model's changes, one transaction after another
//	attachments.go   what the CNI plugin says: whose an address of this node is
//	guard.go         the bridge's table, where podfence connects the pods
//	links.go         the pods' links, where another plugin does
//	modes.go         what is left of another way to connect pods
//	closed.go        says which addresses are closed
//	refusals.go      policies that the kernel refuses, found by search.go
//	problems.go      a Warning Event for what cannot be enforced
//	health.go        in which conditions the node is not as it should be
//
// There is no policy logic here, and no netlink.
package controllers
