package handshake

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

const (
	// Version is the version of the protocol that this package speaks.
	Version = 1

	// MaxSize is how long a request or an answer may be, its newline included.
	// It is enough for a gc with 9,000 attachments, whose container IDs have 64
	// digits: far more than a node has pods.
	MaxSize = 1 << 20

	// DefaultSocket is where the agent listens if it is not told otherwise.
	DefaultSocket = "/run/podfence/agent.sock"
)

// The operations of a Request.
const (
	// OpAdd announces a pod's interface. The answer comes when the pod's rules
	// are committed.
	OpAdd = "add"
	// OpDel says that the interface is gone. It is no error if the agent has
	// never heard of it.
	OpDel = "del"
	// OpGC lists the interfaces that still exist; all others are gone.
	OpGC = "gc"
	// OpStatus asks whether an add could succeed now.
	OpStatus = "status"
)

// How the plugin that sends an add connects pods, according to its configuration. An agent of
// the other mode refuses the add, because the pod would be connected but get nothing through.
const (
	// ModeBridge: podfence's bridge connects the pod.
	ModeBridge = "bridge"
	// ModeChained: another plugin has connected the pod.
	ModeChained = "chained"
)

// Pod says which pod an interface belongs to.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// UID is empty if the container runtime doesn't tell; it tells a pod from
	// an earlier one of the same name.
	UID string `json:"uid,omitempty"`
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Attachment is one interface of one container, as CNI counts them.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// Request is what the plugin says. The container and the interface name the
// attachment: an add with a known pair replaces what was said of it before, for
// a plugin that was killed is called again. An add with an address that another
// attachment has says that the other is gone: its del was lost, for DEL doesn't
// wait for an agent that is away.
type Request struct {
	// Version is that of the sender; Call sets it.
	Version int `json:"version"`
	// Op is OpAdd, OpDel, OpGC or OpStatus.
	Op string `json:"op"`
	// TimeoutMillis is how many milliseconds the sender waits for the answer; 0 if it
	// does not say. Call sets it. Serve makes sure that the answer comes shortly before, so
	// that it can say why the request takes so long.
	TimeoutMillis int64 `json:"timeoutMillis,omitempty"`

	// ContainerID and IfName are set for add and del.
	ContainerID string `json:"containerID,omitempty"`
	IfName      string `json:"ifName,omitempty"`

	// The following fields are set only for add.

	Pod Pod `json:"pod,omitzero"`
	// Mode is ModeBridge or ModeChained. It is empty if the plugin is older than this field.
	Mode string `json:"mode,omitempty"`
	// IPs are the pod's addresses, of which there is at least one.
	IPs []netip.Addr `json:"ips,omitempty"`
	// MAC is the MAC of the pod's interface. It is empty if a chained plugin was not
	// told it.
	MAC string `json:"mac,omitempty"`
	// HostInterface is the node's end of the pod's link, which exists, and is down. It is
	// empty if a chained plugin was not told it.
	HostInterface string `json:"hostInterface,omitempty"`
	// NetNS is the path of the pod's network namespace.
	NetNS string `json:"netNS,omitempty"`
	// Unserved is what the pod asks of the network and nobody provides, each as a
	// sentence with the reason.
	Unserved []string `json:"unserved,omitempty"`

	// Attachments are the valid attachments; they are set only for gc. Empty means that
	// none is valid; nil is refused, because it may mean that somebody forgot to say.
	Attachments []Attachment `json:"attachments"`
}

// Response is what the agent answers.
type Response struct {
	// Version is that of the agent.
	Version int `json:"version"`
	// Error says why the agent did not do what was asked; empty: it did.
	Error string `json:"error,omitempty"`
}

// plainName is the form of a container's ID (CNI specification, section 2). It
// names a file.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// decode reads a request, and checks it.
func decode(line []byte) (r Request, err error) {
	// First the version alone: all else may have changed its meaning.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return r, fmt.Errorf("the request is no JSON: %w", err)
	}
	if v.Version != Version {
		return r, fmt.Errorf("version %d of the protocol is not known, this agent speaks %d", v.Version, Version)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("the request is no JSON: %w", err)
	}
	if err := r.check(); err != nil {
		return r, fmt.Errorf("invalid request: %w", err)
	}
	return r, nil
}

// maxTimeout is the longest that a sender may wait.
const maxTimeout = 24 * time.Hour

// check says what is wrong with a request. It does not look at the version.
func (r *Request) check() error {
	if r.TimeoutMillis < 0 || r.TimeoutMillis > maxTimeout.Milliseconds() {
		return fmt.Errorf("a timeout of %d ms, which is not from 0 to %s", r.TimeoutMillis, maxTimeout)
	}
	switch r.Op {
	case OpStatus:
		return nil
	case OpGC:
		if r.Attachments == nil {
			return errors.New("gc without a list of valid attachments")
		}
		return nil
	case OpAdd, OpDel:
	default:
		return fmt.Errorf("unknown operation %q", r.Op)
	}
	if r.ContainerID == "" || r.IfName == "" {
		return fmt.Errorf("%s without a container or an interface name", r.Op)
	}
	if !plainName.MatchString(r.ContainerID) || strings.ContainsAny(r.IfName, "/\x00") {
		return fmt.Errorf("%s of container %.100q with interface %.100q, which are no names", r.Op, r.ContainerID, r.IfName)
	}
	if r.Op == OpDel {
		return nil
	}
	if r.Pod.Namespace == "" || r.Pod.Name == "" {
		return errors.New("add without the pod's namespace and name")
	}
	if len(r.IPs) == 0 {
		return errors.New("add without an address")
	}
	if r.Mode != "" && r.Mode != ModeBridge && r.Mode != ModeChained {
		return fmt.Errorf("add in mode %.100q, which is not known", r.Mode)
	}
	for _, a := range r.IPs {
		// The zero Addr is the empty string in JSON.
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("add with %q, which is no plain unicast address", a)
		}
	}
	if r.MAC != "" {
		if mac, err := net.ParseMAC(r.MAC); err != nil || len(mac) != 6 {
			return fmt.Errorf("add with %q, which is no MAC address", r.MAC)
		}
	}
	return nil
}
