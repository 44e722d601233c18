package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

// A cluster's --cni can be changed while pods run (docs/MODES.md). What the other way to
// connect pods has left is of two kinds here: a configuration by which the container
// runtime still calls the plugin, whose pods would be connected in one way and fenced in
// the other; and pods that were connected in the other way.

// fits fails if the plugin connects pods in another way than the agent takes care of, or
// if there are none to be connected yet.
func (a *Attachments) fits(mode string) error {
	switch {
	case a.refuse != nil:
		return a.refuse
	case a.bridge != nil && mode == handshake.ModeChained:
		return errors.New("this node's agent runs with --cni bridge, and the network configuration that the container runtime has taken calls podfence after another plugin: remove that configuration, so that podfence's own counts (docs/MODES.md)")
	case a.bridge == nil && mode == handshake.ModeBridge:
		return errors.New("this node's agent runs with --cni chained, and the network configuration that the container runtime has taken has podfence connect the pods: add {\"type\":\"podfence\",\"mode\":\"chained\"} to the end of the other plugin's configuration, and podfence's own goes (docs/MODES.md)")
	}
	return nil
}

// vacant fails if another plugin has connected a pod that has one of an attachment's
// addresses: podfence's leases know nothing of those, and one of the two would have the
// other's rights. The plugin gives the next ADD another address.
func (a *Attachments) vacant(ctx context.Context, attachment policy.Attachment) error {
	if a.bridge == nil || a.bridge.Find == nil {
		return nil
	}
	a.enforcer.mu.Lock()
	contested := a.enforcer.model.Contested(attachment)
	a.enforcer.mu.Unlock()
	if len(contested) == 0 {
		return nil
	}
	found, err := a.bridge.Find(ctx, contested)
	if err != nil {
		return fmt.Errorf("pod %s: finding out whether another pod has its address: %w", attachment.Pod, err)
	}
	for _, addr := range contested {
		if at := found[addr]; len(at.Names) > 0 {
			return fmt.Errorf("pod %s: a pod that another plugin has connected (link %s) has the address %s: the next try takes another one; restart the node's pods, or drain it (docs/MODES.md)", attachment.Pod, at.Names[0], addr)
		}
	}
	return nil
}

// connectedOtherwise fails while pods of this node are not connected by the bridge, though
// podfence connects the pods. They are fenced by their addresses alone: the bridge's table
// does not see what they send, and nothing is closed by their links.
func (e *Enforcer) connectedOtherwise() error {
	addrs := e.notOnBridge()
	if len(addrs) == 0 {
		return nil
	}
	found, err := e.guard.Find(context.Background(), addrs)
	if err != nil {
		return fmt.Errorf("finding out how pods are connected: %w", err)
	}
	for _, addr := range addrs {
		// What the API shows after a reboot leads nowhere.
		if at := found[addr]; len(at.Names) > 0 {
			return fmt.Errorf("the pod with the address %s, and maybe others, was connected by another plugin (link %s) before the agent ran with --cni bridge: it goes on, fenced by its address alone; restart the node's pods, or drain it", addr, at.Names[0])
		}
	}
	return nil
}

// notOnBridge are the addresses of pods of this node that are not behind a port which the
// plugin has made, sorted.
func (e *Enforcer) notOnBridge() (addrs []netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ours := map[netip.Addr]bool{}
	for _, attachment := range e.model.Attachments() {
		addrs = append(addrs, e.model.Contested(attachment)...)
		for _, ip := range attachment.IPs {
			ours[ip] = e.guard.connects(attachment)
		}
	}
	for _, local := range e.model.LocalAddrs() {
		if !ours[local.Addr] {
			addrs = append(addrs, local.Addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
