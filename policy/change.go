package policy

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/v1alpha1"
)

// Change is one change of what the Model knows: an object has come or is another one, or it is
// gone. It is a value. The watches, the first load, a folder of manifests, the CNI plugin's word
// and the tests make the same ones, and Model.Apply is the only way into the model.
type Change interface {
	fmt.Stringer
	apply(*Model)
}

// Apply takes changes in, one after another. Of two of the same object the later one counts.
func (m *Model) Apply(changes ...Change) {
	for _, c := range changes {
		c.apply(m)
	}
}

// Knows reports whether the model has taken in this very change, and no other of the object
// since, so that Apply would change nothing. It may say no of a change that it knows: of pods it
// tells by the value that SetPod was given, without a look at it, of resolutions by what they say,
// and of others it cannot tell.
func (m *Model) Knows(c Change) bool {
	switch c := c.(type) {
	case podChange:
		return m.pod(c.key) == c.pod
	case resolvedChange:
		return !slices.ContainsFunc(c.all, func(r Resolution) bool {
			return slices.ContainsFunc(m.forPods(r), func(r Resolution) bool { return !m.resolutions.knows(r) })
		})
	}
	return false
}

// HasSynced reports whether all that there was at the start has been taken in (see Synced).
func (m *Model) HasSynced() bool { return m.synced }

// Synced is not about an object. It says that all that there was at the start has been taken in,
// as HasSynced of an informer does: what the model has had before is a part of the cluster.
func Synced() Change { return syncedChange{} }

// ChangeOf is a Pod, Namespace, Node, NetworkPolicy, ClusterNetworkPolicy or PodAddresses of the API
// as it is now.
func ChangeOf(object metav1.Object) Change {
	switch o := object.(type) {
	case *corev1.Pod:
		if pod, seen := PodOf(o); seen {
			return SetPod(pod)
		}
		return Gone(o)
	case *corev1.Namespace:
		return SetNamespace(NamespaceOf(o))
	case *corev1.Node:
		return SetNode(NodeOf(o))
	case *networkingv1.NetworkPolicy:
		parsed, _ := Parse(o)
		return SetPolicy(parsed)
	case *clusterv1beta1.ClusterNetworkPolicy:
		parsed, _ := ParseCluster(o)
		return SetPolicy(parsed)
	case *v1alpha1.PodAddresses:
		return announcementsChange{o.Name, announcementsOf(o)}
	}
	panic(fmt.Sprintf("policy knows of no %T", object))
}

// Gone is a Pod, Namespace, Node, NetworkPolicy, ClusterNetworkPolicy or PodAddresses of the API that
// is gone.
func Gone(object metav1.Object) Change {
	key := Key{Namespace: object.GetNamespace(), Name: object.GetName()}
	switch object.(type) {
	case *corev1.Pod:
		return DeletePod(key)
	case *corev1.Namespace:
		return DeleteNamespace(key.Name)
	case *corev1.Node:
		return DeleteNode(key.Name)
	case *networkingv1.NetworkPolicy, *clusterv1beta1.ClusterNetworkPolicy:
		return DeletePolicy(key)
	case *v1alpha1.PodAddresses:
		return announcementsChange{node: key.Name}
	}
	panic(fmt.Sprintf("policy knows of no %T", object))
}

// SetPod is a pod as it is now.
func SetPod(pod *Pod) Change { return podChange{pod.Key, pod} }

// DeletePod is a pod that is gone, or that policy does not see any more.
func DeletePod(key Key) Change { return podChange{key: key} }

// SetNamespace is a namespace as it is now.
func SetNamespace(ns Namespace) Change { return namespaceChange{ns.Name, &ns} }

// DeleteNamespace is a namespace that is gone. Its pods and policies, where they are still
// there, stay until they are gone themselves; no namespaceSelector means them any more.
func DeleteNamespace(name string) Change { return namespaceChange{name: name} }

// SetNode is a node as it is now.
func SetNode(node Node) Change { return nodeChange{node.Name, &node} }

// DeleteNode is a node that is gone.
func DeleteNode(name string) Change { return nodeChange{name: name} }

// SetPolicy is a policy as it is now. One that is quarantined stays so if it is the
// same.
func SetPolicy(p Policy) Change { return policyChange{p.Key, &p} }

// DeletePolicy is a policy that is gone.
func DeletePolicy(key Key) Change { return policyChange{key: key} }

// SetAttachment is what the CNI plugin has made. From now on its addresses are its pod's and no
// other's, whatever the API shows.
func SetAttachment(a Attachment) Change { return attachmentChange{a.Key(), &a} }

// DeleteAttachment is what the CNI plugin has removed.
func DeleteAttachment(containerID, ifName string) Change {
	return attachmentChange{at: AttachmentKey{containerID, ifName}}
}

// In each, nil says that it is gone.
type (
	podChange struct {
		key Key
		pod *Pod
	}
	namespaceChange struct {
		name      string
		namespace *Namespace
	}
	nodeChange struct {
		name string
		node *Node
	}
	policyChange struct {
		key    Key
		policy *Policy
	}
	attachmentChange struct {
		at         AttachmentKey
		attachment *Attachment
	}
	// announcementsChange is all that the agent of a node announces of its pods, in place of what it
	// has announced before.
	announcementsChange struct {
		node string
		all  []announcement
	}
	syncedChange struct{}
)

func (c podChange) apply(m *Model) {
	if c.pod == nil {
		m.deletePod(c.key)
	} else {
		m.setPod(c.pod)
	}
}

func (c namespaceChange) apply(m *Model) {
	m.revision++
	m.namespaceChanged(c.name, c.namespace)
}

func (c nodeChange) apply(m *Model) {
	if c.node == nil {
		m.deleteNode(c.name)
	} else {
		m.setNode(*c.node)
	}
}

func (c policyChange) apply(m *Model) {
	m.revision++
	if c.policy == nil {
		m.deletePolicy(c.key)
	} else {
		m.setPolicy(*c.policy)
	}
}

func (c attachmentChange) apply(m *Model) {
	if c.attachment == nil {
		m.deleteAttachment(c.at)
	} else {
		m.setAttachment(*c.attachment)
	}
}

func (c announcementsChange) apply(m *Model) { m.setAnnouncements(c.node, c.all) }

func (syncedChange) apply(m *Model) { m.synced = true }

func (c podChange) String() string       { return what("pod", c.key, c.pod == nil) }
func (c namespaceChange) String() string { return what("namespace", c.name, c.namespace == nil) }
func (c nodeChange) String() string      { return what("node", c.name, c.node == nil) }
func (c policyChange) String() string {
	if c.key.Namespace == "" {
		return what("ClusterNetworkPolicy", c.key.Name, c.policy == nil)
	}
	return what("policy", c.key, c.policy == nil)
}

func (c attachmentChange) String() string { return what("attachment", c.at, c.attachment == nil) }

func (c announcementsChange) String() string {
	return fmt.Sprintf("%d pods announced by node %s", len(c.all), c.node)
}

func (syncedChange) String() string { return "all that there was at the start" }

func what(kind string, of any, gone bool) string {
	if gone {
		return fmt.Sprintf("%s %v is gone", kind, of)
	}
	return fmt.Sprintf("%s %v", kind, of)
}
