// Package clusterstatus writes the status of ClusterNetworkPolicies: the condition Accepted, which says
// whether podfence can enforce all of a policy, and if not, which of its fields it cannot.
//
// That depends on the policy alone, so every node would say the same. Hence one program in the cluster
// writes it, and not each agent: of those that run, the one that has the Lease. Agents never read it,
// and enforce policies whether somebody writes it or not.
//
//	writer.go                           Writer: the manager, and the Lease by which one of several writes
//	kind.go                             which version of the kind the API server has, and when that changes
//	watch.go                            the cache and the controller for that version
//	cache.go                            what the cache keeps of a policy
//	clusternetworkpolicy_controller.go  the condition of one policy, compared and written
//	condition.go                        what the condition says of a policy
//	health.go                           /healthz and /readyz
package clusterstatus
