package enforcer

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Bridge is the bridge that the CNI plugin connects this node's pods by.
type Bridge struct {
	// Kernel carries out plans for the table of family bridge.
	Kernel Kernel
	// MAC is the bridge's.
	MAC [6]byte
	// Gateway is the address of a pod range that the bridge has.
	Gateway func(podCIDR netip.Prefix) netip.Addr
	// GuardPort makes a port one that the bridge's table knows as a pod's.
	GuardPort func(port string) error
	// Port is the name of the port of an attachment that the plugin has made.
	Port func(containerID, ifName string) string
	// Find returns where those addresses are that are not behind such a port.
	Find func(ctx context.Context, addrs []netip.Addr) (map[netip.Addr]node.PodLink, error)
}

// Connects reports whether an attachment is behind a port that the plugin has made. An attachment
// from a time when another plugin connected the pods has a link of that plugin, or none. A nil
// Bridge connects none.
func (b *Bridge) Connects(a policy.Attachment) bool {
	return b != nil && a.HostInterface != "" && a.HostInterface == b.Port(a.ContainerID, a.IfName)
}

// guard is the content of the bridge's table: who may send by which of its ports.
type guard struct {
	bridge  *Bridge
	options ruleset.Options
	table   *ruleset.Guard

	attachments map[policy.AttachmentKey]policy.Attachment
	podCIDRs    []netip.Prefix
	// changed says that attachments or podCIDRs have changed since the last plan.
	changed bool
}

func newGuard(bridge *Bridge, options ruleset.Options) *guard {
	return &guard{bridge: bridge, options: options}
}

func (g *guard) follow(c Committed) {
	if c.Intent != nil {
		g.attachments, g.podCIDRs, g.changed = maps.Clone(c.Intent.Attachments), c.Intent.PodCIDRs, true
		return
	}
	policy.Replace(g.attachments, c.Delta.Attachments)
	g.changed = g.changed || len(c.Delta.Attachments) > 0
	if c.Delta.PodCIDRs != nil {
		g.podCIDRs, g.changed = *c.Delta.PodCIDRs, true
	}
}

func (g *guard) plan(anew bool) (nft.Plan, error) {
	if !anew && !g.changed {
		return nft.Plan{Family: nft.Bridge}, nil
	}
	g.changed = false
	gateway := ruleset.Gateway{MAC: g.bridge.MAC}
	for _, podCIDR := range g.podCIDRs {
		gateway.Addrs = append(gateway.Addrs, g.bridge.Gateway(podCIDR))
	}
	attachments := slices.Collect(maps.Values(g.attachments))
	if anew {
		g.table = ruleset.BuildGuard(attachments, gateway, g.options.Fragments)
		if group := g.options.LogGroup; group != 0 {
			g.table.Tell(group)
		}
		return g.table.Replacement(), nil
	}
	return g.table.UpdateGuard(attachments, gateway), nil
}
