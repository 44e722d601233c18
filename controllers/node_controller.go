package controllers

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// NodeReconciler feeds nodes: this one's pod ranges.
type NodeReconciler struct {
	client.Reader
	*Enforcer
}

// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch

// Reconcile implements reconcile.Reconciler.
func (r *NodeReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcile(ctx, r.Enforcer, r, req, &corev1.Node{}, r.setNode, func() policy.Change { return r.nodeGone(req.Name) })
}

// setNode is a Node as it is now, with the addresses that it had, and nodeGone one that is gone.
// What cannot be used of a Node is left out, and named in the log once. The caller holds e.mu.
func (e *Enforcer) setNode(n *corev1.Node) policy.Change {
	node := policy.NodeOf(n)
	last, known := e.model.Node(n.Name)
	if !known && e.lastAddr != nil {
		if a := e.lastAddr(n.Name); a.IsGlobalUnicast() {
			last.Addrs = []netip.Addr{a}
		}
	}
	node.Addrs = keepAddrs(node.Addrs, last.Addrs)
	unusable := strings.Join(policy.UnusableAddrs(n), ", ")
	if unusable != "" && e.unusable[n.Name] != unusable {
		e.log.Info("An InternalIP of a Node cannot be used, and is left out: it must be an address that is one host's in the whole cluster",
			"node", n.Name, "address", unusable)
	}
	if unusable == "" {
		delete(e.unusable, n.Name)
	} else {
		e.unusable[n.Name] = unusable
	}
	return policy.SetNode(node)
}

func (e *Enforcer) nodeGone(name string) policy.Change {
	delete(e.unusable, name)
	return policy.DeleteNode(name)
}

// keepAddrs returns a Node's addresses as last known: those that it has now and, of an
// address family that it has none of, those that it had before. Cloud providers take them
// away for a while. Routes to the Node stay meanwhile, so what comes back must be let in by
// the tunnel's rules, and this node's own tunnel must not change. The family that was the
// preferred one stays it. An address that is given up for good is forgotten with the Node,
// or when it has another one of the family.
func keepAddrs(now, before []netip.Addr) []netip.Addr {
	var kept []netip.Addr
	for _, old := range before {
		if !slices.ContainsFunc(now, func(a netip.Addr) bool { return a.Is4() == old.Is4() }) {
			kept = append(kept, old)
		}
	}
	if len(kept) > 0 && kept[0] == before[0] {
		return slices.Concat(kept, now)
	}
	return slices.Concat(now, kept)
}

// SetupWithManager has the manager call Reconcile.
func (r *NodeReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(&corev1.Node{}).Named("node").Complete(r)
}
