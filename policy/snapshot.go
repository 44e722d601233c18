package policy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/v1alpha1"
)

// Snapshot is a cluster at one moment as the API shows it, together with what one node knows
// better than the API.
type Snapshot struct {
	Nodes      []*corev1.Node
	Namespaces []*corev1.Namespace
	Pods       []*corev1.Pod
	Policies   []*networkingv1.NetworkPolicy
	// ClusterPolicies are the ClusterNetworkPolicies. There are none where the cluster does not
	// have that kind.
	ClusterPolicies []*clusterv1beta1.ClusterNetworkPolicy
	// PodAddresses are what the nodes' agents have announced, an object for each node.
	PodAddresses []*v1alpha1.PodAddresses

	// Node is that node: the snapshot is its agent's view. Empty: it is no node's view.
	Node string
	// Attachments are what the CNI plugin has made on that node.
	Attachments []Attachment
	// LastPodCIDRs are the pod ranges that the node had when it last had any. They count
	// for an address family that its Node object, if there is one, shows none of.
	LastPodCIDRs []netip.Prefix
	// Resolutions are what domain names are resolved to on that node, as far as that counts. Their times do not matter.
	Resolutions []Resolution
}
