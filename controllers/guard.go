package controllers

import (
	"context"
	"fmt"
	"net/netip"

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
	// Find returns where addresses are that are behind no such port.
	Find func(ctx context.Context, addrs []netip.Addr) (map[netip.Addr]node.PodLink, error)
}

// guard keeps the bridge's table, as the enforcer keeps the other. It is
// committed after that: what may pass the bridge is judged by then.
type guard struct {
	Bridge
	table *ruleset.Guard
	known bool // the kernel holds table
}

func newGuard(cni *CNI) *guard {
	if cni == nil || cni.Bridge == nil {
		return nil
	}
	return &guard{Bridge: *cni.Bridge}
}

// connects says whether an attachment is behind a port that the plugin has made; one of when
// another plugin connected the pods has a link of that plugin's, or none.
func (g *guard) connects(a policy.Attachment) bool {
	return g != nil && a.HostInterface != "" && a.HostInterface == g.Port(a.ContainerID, a.IfName)
}

// forget has the next commit replace the table.
func (g *guard) forget() {
	if g != nil {
		g.known = false
	}
}

// commit brings the bridge's table up to date in one transaction.
func (g *guard) commit(e *Enforcer) error {
	if g == nil {
		return nil
	}
	var attachments []policy.Attachment
	gateway := ruleset.Gateway{MAC: g.MAC}
	e.mu.Lock()
	attachments = e.model.Attachments()
	for _, podCIDR := range e.model.PodCIDRs() {
		gateway.Addrs = append(gateway.Addrs, g.Gateway(podCIDR))
	}
	e.mu.Unlock()
	var plan nft.Plan
	if g.known {
		plan = g.table.UpdateGuard(attachments, gateway)
	} else {
		g.table = ruleset.BuildGuard(attachments, gateway, e.options.Fragments)
		plan = g.table.Replacement()
	}
	if plan.Empty() {
		return nil
	}
	err := g.Kernel.Apply(plan)
	g.known = err == nil
	if err != nil {
		return fmt.Errorf("the bridge's table: %w", err)
	}
	return nil
}
