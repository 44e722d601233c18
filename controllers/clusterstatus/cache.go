package clusterstatus

import (
	"fmt"
	"hash/fnv"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// kept is what the cache keeps of a policy: the conditions that it has, and the one that it should
// have. What that follows from is not kept, because a policy may have thousands of peers. The cache's
// Get and List know nothing of it; its store does.
type kept struct {
	metav1.ObjectMeta
	Has  []metav1.Condition
	Want metav1.Condition
}

// Keep makes what the cache keeps of an object that it gets. It passes on what is no policy.
func Keep(object any) (any, error) {
	cnp, is := object.(*clusterv1beta1.ClusterNetworkPolicy)
	if !is { // a tombstone, or a policy that was kept already
		return object, nil
	}
	return &kept{
		ObjectMeta: metav1.ObjectMeta{Name: cnp.Name, UID: cnp.UID, ResourceVersion: cnp.ResourceVersion},
		Has:        cnp.Status.Conditions, Want: conditionOf(cnp),
	}, nil
}

// GetResourceVersion is by what the cache's informer sees whether a policy that is listed again has
// changed, and reconciles it. A policy that was read without fields that the kind's definition has by
// now has not, but the condition that it should have may be another one. It is nothing to tell the API
// server: that gets the field ResourceVersion.
func (k *kept) GetResourceVersion() string {
	h := fnv.New64a()
	fmt.Fprint(h, k.Want)
	return fmt.Sprintf("%s-%x", k.ResourceVersion, h.Sum64())
}

// GetObjectKind and DeepCopyObject make it an object (runtime.Object).
func (*kept) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject copies what may change.
func (k *kept) DeepCopyObject() runtime.Object {
	return &kept{*k.ObjectMeta.DeepCopy(), slices.Clone(k.Has), k.Want}
}
