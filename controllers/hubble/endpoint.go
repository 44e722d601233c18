package hubble

import (
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"github.com/podfence/podfence/api/flows"
)

// cluster is the name that Cilium gives to a cluster that has none.
const cluster = "default"

// Cilium's reserved identities. From firstIdentity on they are those of pods, up to lastIdentity.
const (
	identityHost       = 1
	identityWorld      = 2
	identityUnmanaged  = 3
	identityRemoteNode = 6

	firstIdentity = 256
	lastIdentity  = 1<<24 - 1
)

// namespaceLabel is the label by which Cilium says a pod's namespace.
const namespaceLabel = "io.kubernetes.pod.namespace"

// notOfIdentity are labels that differ between pods of one workload. An identity leaves them out, as
// Cilium's does.
var notOfIdentity = []string{
	"apps.kubernetes.io/pod-index", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-completion-index",
	"batch.kubernetes.io/job-name", "controller-revision-hash", "controller-uid", "job-name", "pod-template-generation",
	"pod-template-hash", "statefulset.kubernetes.io/pod-name",
}

// endpoint says one end of a flow in Hubble's words. subjectOf is the direction of the rules whose subject
// this end is.
func (c *converter) endpoint(f *flows.Flow, e *flows.Endpoint, subjectOf flows.Direction) *flowpb.Endpoint {
	switch {
	case e.Pod != "":
		h := &flowpb.Endpoint{
			ClusterName: cluster, Namespace: e.Namespace, PodName: e.Pod,
			Labels: podLabels(e), Identity: identity(e),
		}
		if w := e.Workload; w != nil {
			h.Workloads = []*flowpb.Workload{{Name: w.Name, Kind: w.Kind}}
		}
		return h
	case e.Node != "" && e.Node == c.node:
		return &flowpb.Endpoint{ClusterName: cluster, Identity: identityHost, Labels: []string{"reserved:host"}}
	case e.Node != "":
		return &flowpb.Endpoint{ClusterName: cluster, Identity: identityRemoteNode, Labels: []string{"reserved:remote-node"}}
	case f.Reason == flows.UnknownPod && (f.Direction == "" || f.Direction == subjectOf):
		return &flowpb.Endpoint{ClusterName: cluster, Identity: identityUnmanaged, Labels: []string{"reserved:unmanaged"}}
	}
	return &flowpb.Endpoint{Identity: identityWorld, Labels: []string{"reserved:world"}}
}

// podLabels are a pod's labels in Cilium's form, in order.
func podLabels(e *flows.Endpoint) []string {
	all := []string{"k8s:" + namespaceLabel + "=" + e.Namespace}
	for key, value := range e.Labels {
		all = append(all, "k8s:"+key+"="+value)
	}
	slices.Sort(all)
	return all
}

// identity is a number for pods of the same namespace and labels: the same on each node, and whenever it is
// asked for. There are 16 million numbers, so that two sets of labels rarely have the same one.
func identity(e *flows.Endpoint) uint32 {
	hash := fnv.New64a()
	add := func(text string) { hash.Write([]byte(text + "\x00")) }
	add(e.Namespace)
	for _, key := range slices.Sorted(maps.Keys(e.Labels)) {
		if !slices.Contains(notOfIdentity, key) {
			add(key)
			add(e.Labels[key])
		}
	}
	return firstIdentity + uint32(hash.Sum64()%(lastIdentity-firstIdentity+1))
}

// ciliumLabels are labels in Cilium's form, "source:key=value". They implement labels.Labels for keys of the
// form "source.key", where the source "any" is every source.
type ciliumLabels []string

// Lookup is a label's value, and whether there is such a label.
func (l ciliumLabels) Lookup(key string) (value string, exists bool) {
	wantSource, wantKey, _ := strings.Cut(key, ".")
	for _, label := range l {
		source, rest, _ := strings.Cut(label, ":")
		name, value, _ := strings.Cut(rest, "=")
		if name == wantKey && (wantSource == "any" || wantSource == source) {
			return value, true
		}
	}
	return "", false
}

// Has reports whether there is such a label.
func (l ciliumLabels) Has(key string) bool { _, has := l.Lookup(key); return has }

// Get is a label's value; empty if there is none.
func (l ciliumLabels) Get(key string) string { value, _ := l.Lookup(key); return value }
