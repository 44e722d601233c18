package controllers

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// cacheOptions have the cache keep of each object what podfence reads, which
// for a pod is about a twentieth.
func cacheOptions() cache.Options {
	return cache.Options{ByObject: map[client.Object]cache.ByObject{
		&corev1.Pod{}:                 {Transform: strip(stripPod)},
		&corev1.Namespace{}:           {Transform: strip(stripNamespace)},
		&corev1.Node{}:                {Transform: strip(stripNode)},
		&networkingv1.NetworkPolicy{}: {Transform: strip(stripPolicy)},
	}}
}

// strip makes a transform of a function; what is not a T (a tombstone of a
// missed deletion) passes as it is.
func strip[T any](f func(T) T) func(any) (any, error) {
	return func(object any) (any, error) {
		if o, is := object.(T); is {
			return f(o), nil
		}
		return object, nil
	}
}

// stripMeta keeps what identifies and selects an object.
func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, Labels: m.Labels,
		ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
}

func stripPod(p *corev1.Pod) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: stripMeta(p.ObjectMeta),
		Spec: corev1.PodSpec{
			NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			InitContainers: stripContainers(p.Spec.InitContainers), Containers: stripContainers(p.Spec.Containers),
		},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs, StartTime: p.Status.StartTime},
	}
}

// stripContainers keeps the named ports.
func stripContainers(containers []corev1.Container) (kept []corev1.Container) {
	for _, c := range containers {
		var ports []corev1.ContainerPort
		for _, port := range c.Ports {
			if port.Name != "" {
				ports = append(ports, corev1.ContainerPort{Name: port.Name, Protocol: port.Protocol, ContainerPort: port.ContainerPort})
			}
		}
		if len(ports) > 0 {
			kept = append(kept, corev1.Container{Ports: ports})
		}
	}
	return kept
}

func stripNamespace(ns *corev1.Namespace) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: stripMeta(ns.ObjectMeta)}
}

func stripNode(n *corev1.Node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: stripMeta(n.ObjectMeta),
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
}

func stripPolicy(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: stripMeta(np.ObjectMeta), Spec: np.Spec}
}
