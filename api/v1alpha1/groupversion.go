package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the objects' API group and version.
var GroupVersion = schema.GroupVersion{Group: "podfence.io", Version: "v1alpha1"}

// AddToScheme has a scheme know the objects.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &PodAddresses{}, &PodAddressesList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
