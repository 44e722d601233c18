package explain

import (
	"net/netip"

	"github.com/podfence/podfence/policy"
)

// Question asks what becomes of new connections.
type Question struct {
	From, To Target
	// Port is what is asked about. Its zero value asks which ports are open.
	Port Port
}

// Kind says what a Target is. Kinds of workloads are as the API names them, such as Deployment.
type Kind string

// The kinds of targets that are no workloads.
const (
	KindPod     Kind = "Pod"
	KindService Kind = "Service"
	KindNode    Kind = "Node"
	KindAddress Kind = "Address"
)

// Target is where packets come from, or go to.
type Target struct {
	Kind Kind
	// Namespace and Name are the object's; a Node has no Namespace.
	Namespace, Name string
	// Address is that of a KindAddress.
	Address netip.Addr
}

// Port is a destination port: a number or, of a Service or a pod, a name.
type Port struct {
	// Protocol is TCP unless the question says otherwise.
	Protocol policy.Protocol
	Number   uint16
	Name     string
}
