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
	said    string // of other nodes, as last logged
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
	for {
		wait := networkAgain
		if !n.round() {
			wait = networkRetry
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

// round makes links and routes, and then installs what has pods connected by them. It
// reports whether all is as it should be.
func (n *Network) round() bool {
	self, others := n.nodes()
	changes, unreached, err := n.reconcile(self, others)
	n.enforcer.health.Set(NetworkFailed, err)
	if err != nil {
		return false
	}
	switch {
	case unreached != nil && unreached.Error() != n.said:
		n.said = unreached.Error()
		n.log.Error(unreached, "Cannot reach the pods of all other nodes; trying again", "retryAfter", networkRetry.String())
	case unreached == nil && (changes > 0 || n.said != ""):
		n.said = ""
		n.log.Info("The node's network is what the cluster needs", "changes", changes)
	}
	err = n.publish(self)
	n.enforcer.health.Set(NotInstalled, err)
	return err == nil && unreached == nil
}

// reconcile makes links and routes. Unreached is what keeps other nodes from being
// reached: that one Node is not as it should be is no reason to connect no pods here.
func (n *Network) reconcile(self node.Node, others []node.Node) (changes int, unreached, err error) {
	if n.routes == nil {
		return 0, nil, nil
	}
	if len(self.PodCIDRs) == 0 {
		return 0, nil, errNoPodCIDR
	}
	changes, err = n.routes.Reconcile(self, others)
	var aboutOthers *node.OthersError
	if errors.As(err, &aboutOthers) {
		return changes, err, nil
	}
	return changes, nil, err
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
