package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/ruleset"
)

// leaving is what an agent that does not connect the pods does about those that --cni
// bridge has connected before (docs/MODES.md).
type leaving struct {
	mode    string
	places  install.Places
	network *node.Network
	// ports are what connected pods when the agent started.
	ports []string
	// committed waits until the agent's rules are in the kernel.
	committed func(context.Context) error
}

// leave finds out what there is to leave. As long as the bridge connects pods, they need what they
// have: masquerading, the check of sources, the tunnel's rules, and the bridge's table. So this
// agent leaves that table as it is. It closes nothing by links either, because the table for that
// would take the place of the bridge's.
func (c *cniFlags) leave(nodeName string, o *ruleset.Options) (*leaving, error) {
	if c.mode == "bridge" {
		return nil, nil
	}
	network, err := node.Open(node.Options{Node: nodeName, ProcSys: c.procSys})
	if err != nil {
		return nil, err
	}
	ports, tunnel, err := network.Connects()
	if err != nil {
		return nil, errors.Join(err, network.Close())
	}
	if len(ports) > 0 {
		o.Links, o.Masquerade = false, true
		o.SourceCheck, o.Bridge = c.sourceCheck != "off", node.DefaultBridge
		if tunnel {
			o.TunnelPort = node.DefaultVXLANPort
		}
	}
	return &leaving{mode: c.mode, places: c.places, network: network, ports: ports}, nil
}

// follow gives it sync, by which it waits for an agent's rules before it takes away what held until
// then.
func (l *leaving) follow(sync func(context.Context) error) { l.committed = sync }

// Close closes the connection to the kernel.
func (l *leaving) Close() error {
	if l == nil {
		return nil
	}
	return l.network.Close()
}

// check says why the node has not left yet, and what to do.
func (l *leaving) check() error {
	var why []string
	if len(l.ports) > 0 {
		why = append(why, fmt.Sprintf("pods of this node are still connected by podfence's bridge %s, and --cni is %s now: they go on, fenced, by the links and routes that there are; new ones wait, or may get the same addresses; drain the node, and the agent takes the bridge away (docs/MODES.md)", node.DefaultBridge, l.mode))
	}
	if err := l.configuration(); err != nil {
		why = append(why, err.Error())
	}
	if len(why) == 0 {
		return nil
	}
	return errors.New(strings.Join(why, "; "))
}

// refuses says why no pod can be attached yet; nil: pods can. The reason is that another plugin may
// give out the very addresses that the bridge's pods have.
func (l *leaving) refuses() error {
	if l == nil || len(l.ports) == 0 {
		return nil
	}
	return fmt.Errorf("pods of this node are still connected by podfence's bridge %s, and the other plugin may give their addresses out again: drain the node, and pods can start (docs/MODES.md)", node.DefaultBridge)
}

// configuration looks for a network configuration by which the container runtime calls the plugin in
// a way that no agent answers. It removes podfence's own configuration once another plugin's calls
// podfence, because before that the node would be without any, and once the bridge connects no
// pods.
func (l *leaving) configuration() error {
	all, err := install.Configurations(l.places.ConfDir)
	if err != nil {
		return err
	}
	var own, others string // the first of podfence's own, and of others that call it
	for _, c := range all {
		switch {
		case c.Own && own == "":
			own = filepath.Join(l.places.ConfDir, c.Name)
		case !c.Own && others == "" && (c.Chained || c.Calls && l.mode == "none"):
			others = filepath.Join(l.places.ConfDir, c.Name)
		}
	}
	switch {
	case l.mode == "none" && len(all) > 0 && all[0].Own:
		return fmt.Errorf("%s has the container runtime call podfence's plugin, and with --cni none no agent answers it, so that no pod can start: remove the file, so that the other plugin's counts", own)
	case l.mode == "none" && len(all) > 0 && all[0].Calls:
		return fmt.Errorf("%s calls podfence's plugin, and with --cni none no agent answers it, so that no pod can start: take {\"type\":\"podfence\",...} out of it", others)
	case l.mode == "chained" && own != "" && others == "":
		return fmt.Errorf("%s is left of --cni bridge, and no other configuration calls podfence: add {\"type\":\"podfence\",\"mode\":\"chained\"} to the end of the other plugin's, and this one is removed; until then no pod can start", own)
	case l.mode == "chained" && own != "" && len(l.ports) == 0:
		if _, err := install.RemoveConfigurations(l.places.ConfDir); err != nil {
			return fmt.Errorf("%s is left of --cni bridge: %w: remove it", own, err)
		}
	}
	return nil
}

// leavePeriod is how often to look whether the bridge still connects pods.
const leavePeriod = 5 * time.Second

var errLeft = errors.New("the last pod of podfence's bridge is gone: the agent ends, so that the next one takes the bridge away and has the rules of its own --cni")

// Start removes what is of no use to any pod, once this agent's rules are in the kernel: before that,
// another agent may still have the rules. If the bridge connects pods, Start ends the agent as soon
// as it connects none any more. It implements manager.Runnable.
func (l *leaving) Start(ctx context.Context) error {
	if l.committed(ctx) != nil {
		return nil
	}
	if len(l.ports) == 0 {
		if _, err := l.network.Leave(); err != nil {
			return fmt.Errorf("removing what --cni bridge has left: %w", err)
		}
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(leavePeriod):
		}
		if ports, _, err := l.network.Connects(); err == nil && len(ports) == 0 {
			return errLeft
		}
	}
}

// notHeld are the promises of docs/SECURITY.md that do not hold in a mode of --cni, for
// whoever reads the log of a node.
func notHeld(mode string, sourceCheck bool) (all []string) {
	if !sourceCheck {
		all = append(all, "hosts outside may send with pods' sources (--source-check)")
	}
	if mode == "bridge" {
		return all
	}
	all = append(all, "open pods may send with sources that are no pod's of the node", "on another plugin's bridge, pods may answer ARP and neighbour discovery for others")
	all = append(all, "the node's ICMP errors may carry a few octets of an isolated pod's to others")
	if mode == "none" {
		all = append(all,
			"new pods with addresses beyond the node's ranges are open until the API shows them",
			"an address is of the pod of which the API says so",
			"on another plugin's bridge, isolated pods may send with the sources of other pods there",
		)
	}
	return all
}
