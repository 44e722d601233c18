package controllers

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
)

// servicesAtOnce is how many Services of a namespace are read at most, some 2 kB each.
const servicesAtOnce = 500

// Services reads Services from the API server, for the names of those that flows have asked for. Nothing of it is
// kept or watched, and no policy is about them. It implements observer.ServiceLister.
type Services struct{ reader client.Reader }

// NewServices returns what reads Services by a reader without a cache.
func NewServices(reader client.Reader) Services { return Services{reader} }

// +kubebuilder:rbac:groups="",resources=services,verbs=list

// InNamespace are the first 500 Services of a namespace, and whether there are more.
func (s Services) InNamespace(ctx context.Context, namespace string) (services []observer.Service, more bool, err error) {
	list := &corev1.ServiceList{}
	if err := s.reader.List(ctx, list, client.InNamespace(namespace), client.Limit(servicesAtOnce)); err != nil {
		return nil, false, fmt.Errorf("listing the Services of namespace %s: %w", namespace, err)
	}
	return servicesOf(list), list.Continue != "", nil
}

// WithClusterIP is the Service whose first cluster IP is addr, if there is one. The API server looks for it
// among those that it has in memory (resourceVersion 0), as there may be tens of thousands.
func (s Services) WithClusterIP(ctx context.Context, addr netip.Addr) ([]observer.Service, error) {
	list := &corev1.ServiceList{}
	cached := &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}}
	if err := s.reader.List(ctx, list, cached, client.MatchingFields{"spec.clusterIP": addr.String()}); err != nil {
		return nil, fmt.Errorf("listing the Service of cluster IP %s: %w", addr, err)
	}
	return servicesOf(list), nil
}

// servicesOf are where Services are reached.
func servicesOf(list *corev1.ServiceList) (all []observer.Service) {
	for i := range list.Items {
		s := &list.Items[i]
		service := observer.Service{Key: policy.Key{Namespace: s.Namespace, Name: s.Name}}
		texts := append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...)
		texts = append(texts, s.Spec.ExternalIPs...)
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			texts = append(texts, ingress.IP)
		}
		for _, text := range texts { // one without a cluster IP has the text None there
			if addr, err := netip.ParseAddr(text); err == nil {
				service.Addresses = append(service.Addresses, addr.Unmap())
			}
		}
		for _, p := range s.Spec.Ports {
			service.Ports = append(service.Ports, observer.ServicePort{Protocol: string(p.Protocol), Port: uint16(p.Port), NodePort: uint16(p.NodePort)})
		}
		if len(service.Addresses) > 0 {
			all = append(all, service)
		}
	}
	return all
}
