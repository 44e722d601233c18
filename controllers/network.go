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
	log     logr.Logger
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
		changes, others, err := n.reconcile()
		n.enforcer.health.Set(NetworkFailed, err)
		switch {
		case err != nil:
			wait = networkRetry
		case others != nil:
			wait = networkRetry
			if others.Error() != said {
				n.log.Error(others, "Cannot reach the pods of all other nodes; trying again", "retryAfter", wait.String())
				said = others.Error()
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

// errNoRound is why a node is not ready before the first round.
var errNoRound = errors.New("the node's links and routes have not been looked after yet")

// reconcile is one round: links and routes first, then what has pods connected by them.
// Others is what keeps other nodes from being reached: that one Node is not as it should
// be is no reason to connect no pods here.
func (n *Network) reconcile() (changes int, others, err error) {
	self, all := n.nodes()
	if n.routes != nil && len(self.PodCIDRs) == 0 {
		return 0, nil, errNoPodCIDR
	}
	if n.routes != nil {
		changes, err = n.routes.Reconcile(self, all)
		var aboutOthers *node.OthersError
		if errors.As(err, &aboutOthers) {
			others, err = err, nil
		}
		if err != nil {
			return changes, nil, err
		}
	}
	n.enforcer.health.Set(NotInstalled, n.publish(self))
	return changes, others, nil
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
