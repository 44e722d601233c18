package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodAddresses is what the agent of one node says of the addresses of that node's pods before the
// pods' status shows them, so that the agents of other nodes let pass what policies allow from a
// pod's first packet on. Its name is that of the Node. A pod stays in it until its status shows the
// same addresses, and somewhat longer.
//
// The agents write and read it; nobody else needs to. What it says counts only for pods that are
// bound to the Node of its name.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=podaddresses,scope=Cluster,categories=podfence
// +kubebuilder:printcolumn:name="Pods",type=string,JSONPath=`.pods[*].name`,description="The pods whose addresses their status may not show yet."
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type PodAddresses struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// pods are the pods of the node that were connected a short while ago.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1024
	// +optional
	Pods []PodAddress `json:"pods,omitempty"`
}

// PodAddress is what a node's agent says of one pod.
type PodAddress struct {
	// namespace and name are the pod's.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// uid is the pod's, as its container runtime knows it: of a static pod, the one that its kubelet
	// has given it.
	//
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	UID types.UID `json:"uid"`
	// ips are the addresses that the pod's network interface was given.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:Pattern=`^[0-9A-Fa-f:.]+$`
	IPs []string `json:"ips"`
	// supersedes are the addresses that the pod's status showed when ips were given out: those of an
	// earlier sandbox, which the pod has no longer. As soon as the status shows any others, it counts,
	// and ips no longer do.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	// +optional
	Supersedes []string `json:"supersedes,omitempty"`
	// since is when the addresses were given out, by the node's clock, as RFC 3339 writes it. It is
	// text, and not a metav1.MicroTime: one that a reader cannot read must not keep it from
	// reading all the others.
	//
	// +kubebuilder:validation:MaxLength=35
	Since string `json:"since"`
}

// SinceTime is since as a time; it reports false if it is none.
func (p *PodAddress) SinceTime() (t time.Time, ok bool) {
	t, err := time.Parse(time.RFC3339Nano, p.Since)
	return t, err == nil
}

// Now is the time, as since has it.
func Now() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// PodAddressesList is a list of PodAddresses.
//
// +kubebuilder:object:root=true
type PodAddressesList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PodAddresses `json:"items"`
}
