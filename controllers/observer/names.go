package observer

import (
	"maps"
	"net/netip"
	"strings"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
)

// Holders says who has an address: a pod, or else a node. It may be called from any goroutine.
type Holders interface {
	HolderOf(addr netip.Addr) (pod *policy.Pod, node string)
}

// ModelNames are Names by what a node's model knows.
type ModelNames struct {
	Holders Holders
	// GatewayAt is the node whose pods' gateway an address is, from which a node reaches its own pods, and masquerades;
	// empty if none is. It may be called from any goroutine. Nil: another plugin connects the pods, and nobody
	// knows their gateways.
	GatewayAt func(netip.Addr) string
}

// Endpoint is the end of a flow.
func (n ModelNames) Endpoint(addr netip.Addr, port uint16) flows.Endpoint {
	e := flows.Endpoint{IP: addr, Port: port}
	pod, node := n.Holders.HolderOf(addr)
	if pod == nil {
		if e.Node = node; node == "" && n.GatewayAt != nil {
			e.Node = n.GatewayAt(addr)
		}
		return e
	}
	e.Namespace, e.Pod, e.Labels = pod.Namespace, pod.Name, maps.Collect(pod.Labels.All())
	e.Workload = workloadOf(pod.Name, e.Labels)
	return e
}

// workloadOf is what a pod belongs to, by the labels that the controllers of Kubernetes give their pods, and
// by how they name them; nil if they do not say. The agent does not keep owner references: they would cost
// memory for each pod of the cluster.
func workloadOf(name string, labels map[string]string) *flows.Workload {
	if job := labels["batch.kubernetes.io/job-name"]; job != "" {
		return &flows.Workload{Kind: "Job", Name: job}
	}
	if labels["statefulset.kubernetes.io/pod-name"] == name {
		if set, ordinal, is := cutLast(name, "-"); is && ordinal != "" {
			return &flows.Workload{Kind: "StatefulSet", Name: set}
		}
	}
	base, _, is := cutLast(name, "-") // before the suffix that makes the name unique
	if !is {
		return nil
	}
	if hash := labels["pod-template-hash"]; hash != "" {
		if deployment, found := strings.CutSuffix(base, "-"+hash); found {
			return &flows.Workload{Kind: "Deployment", Name: deployment}
		}
		return &flows.Workload{Kind: "ReplicaSet", Name: base}
	}
	if labels["controller-revision-hash"] != "" && labels["pod-template-generation"] != "" {
		return &flows.Workload{Kind: "DaemonSet", Name: base}
	}
	return nil
}

// cutLast cuts a text at the last separator.
func cutLast(text, separator string) (before, after string, found bool) {
	at := strings.LastIndex(text, separator)
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+len(separator):], true
}
