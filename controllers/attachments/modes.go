package attachments

import (
	"context"
	"errors"
	"fmt"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

// A cluster's --cni can be changed while pods run (docs/MODES.md). What the other way to
// connect pods has left is of two kinds here: a configuration by which the container
// runtime still calls the plugin, whose pods would be connected in one way and fenced in
// the other; and pods that were connected in the other way.

// fits fails if the plugin connects pods in another way than the one that the agent takes care of,
// or if no pods may be connected yet.
func (s *Server) fits(mode string) error {
	switch {
	case s.Refuse != nil:
		return s.Refuse
	case s.Bridge != nil && mode == handshake.ModeChained:
		return errors.New("this node's agent runs with --cni bridge, and the network configuration that the container runtime has taken calls podfence after another plugin: remove that configuration, so that podfence's own counts (docs/MODES.md)")
	case s.Bridge == nil && mode == handshake.ModeBridge:
		return errors.New("this node's agent runs with --cni chained, and the network configuration that the container runtime has taken has podfence connect the pods: add {\"type\":\"podfence\",\"mode\":\"chained\"} to the end of the other plugin's configuration, and podfence's own goes (docs/MODES.md)")
	}
	return nil
}

// vacant fails if another plugin has connected a pod that has one of an attachment's
// addresses: podfence's leases know nothing of those, and one of the two would have the
// other's rights. The plugin gives the next ADD another address.
func (s *Server) vacant(ctx context.Context, attachment policy.Attachment) error {
	if s.Bridge == nil || s.Bridge.Find == nil {
		return nil
	}
	contested := s.Enforcer.Contested(attachment)
	if len(contested) == 0 {
		return nil
	}
	found, err := s.Bridge.Find(ctx, contested)
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

// ConnectedOtherwise fails while pods of this node are not connected by the bridge, though
// podfence connects the pods. They are fenced by their addresses alone: the bridge's table
// does not see what they send, and nothing is closed by their links.
func (s *Server) ConnectedOtherwise() error {
	addrs := s.Enforcer.NotBehind(s.Bridge.Connects)
	if len(addrs) == 0 {
		return nil
	}
	found, err := s.Bridge.Find(context.Background(), addrs)
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
