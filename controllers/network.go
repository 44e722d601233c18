package controllers

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
)

// NodeNetwork makes a node's routes to the other nodes' pods.
type NodeNetwork interface {
	// Reconcile makes them what the nodes need, and returns how many changes
	// that took.
	Reconcile(self node.Node, others []node.Node) (changes int, err error)
}

// Network keeps the node's routes what the cluster's nodes need, and tells the
// container runtime of the CNI plugin once pods can be connected.
type Network struct {
	node     string
	enforcer *Enforcer
	routes   NodeNetwork // nil: another plugin makes them
	// publish writes the CNI configuration for this node, and installs the
	// plugin. It is called whenever that may have changed.
	publish func(self node.Node) error
	// hostPorts is CNI.HostPorts, or nil, and saidOfHostPorts what was logged of it.
	hostPorts       func() string
	saidOfHostPorts string
	log             logr.Logger
}

const (
	// networkAgain is how often the routes are looked after without news: others
	// change them too.
	networkAgain = time.Minute
	// networkRetry is how long to wait after a failure.
	networkRetry = 2 * time.Second
)

// Start keeps the routes until ctx is done. They stay when it stops. It
// implements manager.Runnable.
func (n *Network) Start(ctx context.Context) error {
	if n.enforcer.Sync(ctx) != nil { // nothing is connected before it is fenced
		return nil
	}
	said := ""
	for {
		wait := networkAgain
		changes, err := n.reconcile()
		switch {
		case err != nil:
			wait = networkRetry
			if err.Error() != said {
				n.log.Error(err, "Cannot make the node's network what the cluster needs; trying again", "retryAfter", wait.String())
				said = err.Error()
			}
		case changes > 0 || said != "":
			n.log.Info("The node's network is what the cluster needs", "changes", changes)
			said = ""
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.enforcer.nodes:
		case <-time.After(wait):
		}
	}
}

// errNoPodCIDR is what a node has to wait for: the controller manager gives it
// its range (--allocate-node-cidrs).
var errNoPodCIDR = errors.New("this Node has no spec.podCIDRs yet: pods cannot get addresses")

func (n *Network) reconcile() (changes int, err error) {
	self, others := n.nodes()
	if n.routes != nil && len(self.PodCIDRs) == 0 {
		return 0, errNoPodCIDR
	}
	if n.routes != nil {
		changes, err = n.routes.Reconcile(self, others)
		// One Node that is not as it should be must not keep all pods of this one.
		var aboutOthers *node.OthersError
		if err != nil && !errors.As(err, &aboutOthers) {
			return changes, err
		}
	}
	err = errors.Join(err, n.publish(self))
	n.sayHostPorts()
	return changes, err
}

// nodes are this node and the others, as the model knows them.
func (n *Network) nodes() (self node.Node, others []node.Node) {
	var all []policy.Node
	n.enforcer.mu.Lock()
	all = n.enforcer.model.Nodes()
	n.enforcer.mu.Unlock()
	for _, one := range all {
		as := node.Node{Name: one.Name, Addrs: one.Addrs, PodCIDRs: one.PodCIDRs}
		if one.Name == n.node {
			self = as
		} else {
			others = append(others, as)
		}
	}
	return self, others
}
