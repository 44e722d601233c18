package stage

import (
	"fmt"
	"net/netip"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/test/lab"
)

// Mode is who connects the pods, and how the agent learns of them.
type Mode struct {
	Name string
	CNI  string // the agent's --cni
	// By is the reference plugin that connects the pods; empty: podfence's own.
	By string
	// VLAN is the VLAN that the plugin bridge has the pods in, and the host on its wire; the bridge itself
	// is not in it. 0: it filters no VLANs.
	VLAN int
	// Beside: the node's address is not the bridge's own, but that of a link that leads
	// into it.
	Beside bool
	// Routing is the agent's --routing, and SourceCheck its --source-check, where they are
	// not auto.
	Routing, SourceCheck string
	// Sysctls are settings of the node's, by name.
	Sysctls map[string]string
}

// Modes are all of them but for how podfence's own bridge reaches other nodes.
var Modes = []Mode{
	{Name: "bridge", CNI: "bridge"},
	{Name: "chained-bridge", CNI: "chained", By: "bridge"}, {Name: "chained-routed", CNI: "chained", By: "ptp"},
	{Name: "policy-only-bridge", CNI: "none", By: "bridge"}, {Name: "policy-only-routed", CNI: "none", By: "ptp"},
	{Name: "chained-beside", CNI: "chained", By: "bridge", Beside: true},
	{Name: "policy-only-beside", CNI: "none", By: "bridge", Beside: true},
	{Name: "chained-vlan", CNI: "chained", By: "bridge", VLAN: lab.VLAN},
	{Name: "policy-only-vlan", CNI: "none", By: "bridge", VLAN: lab.VLAN},
}

// Own says whether podfence's own plugin connects the pods, by a bridge.
func (m Mode) Own() bool { return m.By == "" }

// Foreign says whether another plugin does, by a bridge.
func (m Mode) Foreign() bool { return m.By == "bridge" }

// Routed says whether another plugin does, by veth pairs with routes to them.
func (m Mode) Routed() bool { return m.By == "ptp" }

// Device is the node's link to the bridge, empty if there is none.
func (m Mode) Device() string {
	switch {
	case m.Beside:
		return besideBridge
	case m.VLAN > 0: // as the plugin calls it
		return fmt.Sprintf("%s.%d", ForeignBridge, m.VLAN)
	}
	return map[string]string{"": node.DefaultBridge, "bridge": ForeignBridge}[m.By]
}

// ForeignBridge is the name of another plugin's bridge.
const ForeignBridge = "cni0"

const besideBridge = "pods0"

// Families are the addresses that there are in a scene.
type Families struct {
	Name   string
	V4, V6 bool
}

// The families that there are.
var (
	Dual   = Families{"dual", true, true}
	Single = []Families{{"ipv4", true, false}, {"ipv6", false, true}}
)

// Some are those of the addresses that are of the scene's families.
func (f Families) Some(addrs ...string) (all []netip.Addr) {
	for _, a := range addrs {
		if addr := netip.MustParseAddr(a); addr.Is4() && f.V4 || addr.Is6() && f.V6 {
			all = append(all, addr)
		}
	}
	return all
}
