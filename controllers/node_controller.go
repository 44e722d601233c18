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
	return reconcile(ctx, r.Enforcer, r, req, &corev1.Node{}, r.setNode,
		func(m *policy.Model) { r.deleteNode(m, req.Name) })
}

// setNode takes a Node in, within Feed. What cannot be used of it is left out, and named in
// the log once.
func (e *Enforcer) setNode(m *policy.Model, n *corev1.Node) {
	node := policy.NodeOf(n)
	last, known := m.Node(n.Name)
	if !known && e.lastAddr != nil {
		if a := e.lastAddr(n.Name); a.IsGlobalUnicast() {
			last.Addrs = []netip.Addr{a}
		}
	}
	node.Addrs = keepAddrs(node.Addrs, last.Addrs)
	m.SetNode(node)
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
}

// deleteNode forgets a Node, within Feed.
func (e *Enforcer) deleteNode(m *policy.Model, name string) {
	m.DeleteNode(name)
	delete(e.unusable, name)
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
