// Package e2e tests podfence on the cluster that `make cluster-up` has started,
// as a user's workload meets it: through kubelet, kube-proxy, Services and DNS,
// and while agents and nodes come and go. `make e2e` runs it; it needs root, to
// enter the pods' namespaces.
package e2e
