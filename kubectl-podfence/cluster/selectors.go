package cluster

import (
	"context"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/explain"
)

// Selectors lists what Deployments, StatefulSets and DaemonSets select their pods by, which Read leaves out: it takes
// the whole objects. namespaces are as those of Read, and so is missing.
func Selectors(ctx context.Context, config *rest.Config, namespaces []string) (all map[explain.Object]*metav1.LabelSelector, missing []string, err error) {
	r, err := newReader(config, namespaces)
	if err != nil {
		return nil, nil, err
	}
	var of [3]map[explain.Object]*metav1.LabelSelector
	var l lists
	apps, namespaces := r.apps()
	l.add(func() (_ string, err error) {
		of[0], err = selectors(ctx, namespaces, "Deployment", "deployments.apps", func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
			return apps.Deployments(ns).List(ctx, o)
		}, func(o *appsv1.Deployment) *metav1.LabelSelector { return o.Spec.Selector })
		return forgiven("deployments.apps", withoutSelectors, err)
	})
	l.add(func() (_ string, err error) {
		of[1], err = selectors(ctx, namespaces, "StatefulSet", "statefulsets.apps", func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
			return apps.StatefulSets(ns).List(ctx, o)
		}, func(o *appsv1.StatefulSet) *metav1.LabelSelector { return o.Spec.Selector })
		return forgiven("statefulsets.apps", withoutSelectors, err)
	})
	l.add(func() (_ string, err error) {
		of[2], err = selectors(ctx, namespaces, "DaemonSet", "daemonsets.apps", func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
			return apps.DaemonSets(ns).List(ctx, o)
		}, func(o *appsv1.DaemonSet) *metav1.LabelSelector { return o.Spec.Selector })
		return forgiven("daemonsets.apps", withoutSelectors, err)
	})
	missing, err = l.wait()
	all = map[explain.Object]*metav1.LabelSelector{}
	for _, some := range of {
		maps.Copy(all, some)
	}
	return all, missing, err
}

// withoutSelectors is what is left out without them.
const withoutSelectors = "their pods are selected by all labels that these have in common, and not by the workload's own."

// selectors lists those of a kind.
func selectors[T metav1.Object](ctx context.Context, namespaces []string, kind, resource string, ask page, of func(T) *metav1.LabelSelector) (map[explain.Object]*metav1.LabelSelector, error) {
	objects, _, err := scoped(ctx, namespaces, resource, ask, slim[T])
	all := map[explain.Object]*metav1.LabelSelector{}
	for _, o := range objects {
		if by := of(o); by != nil {
			all[explain.Object{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}] = by
		}
	}
	return all, err
}
