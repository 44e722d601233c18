// Package controllers brings the cluster to the kernel.
//
//	agent.go         puts the parts together for one node
//	*_controller.go  one reconciler a kind: what is in the cache goes into the
//	                 model; so does what is gone
//	manifests.go     the other source: a folder of YAML, without a cluster
//	enforcer.go      the model's changes, one transaction after another
//	flows.go         established flows, judged anew after each; revoked.go says whose
//	repairs.go       what others do to the tables
//	attachments.go   what the CNI plugin says: whose an address of this node is
//	covered.go       an ADD waits for the policies that its pod's namespace has
//	lost.go          attachments whose link is gone, or whose boot is over
//	network.go       links and routes, kept by cni/node; the plugin, by cni/install
//	guard.go         the bridge's table, where podfence connects the pods
//	links.go         the pods' links, where another plugin does
//	modes.go         what is left of another way to connect pods
//	closed.go        says which addresses are closed
//	refusals.go      policies that the kernel refuses, found by search.go
//	problems.go      a Warning Event for what cannot be enforced
//	events.go        creates Events, beside all else
//	health.go        in which conditions the node is not as it should be
//
// There is no policy logic here, and no netlink.
package controllers
