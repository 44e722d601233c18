package announcements

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/v1alpha1"
)

// +kubebuilder:rbac:groups=podfence.io,resources=podaddresses,verbs=get;create;update

// requestTimeout is how long the API server may take to answer.
const requestTimeout = 5 * time.Second

// read reads what the API server has; object is nil if it has nothing.
func (a *Announcer) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	object := &v1alpha1.PodAddresses{}
	err := a.Client.Get(ctx, client.ObjectKey{Name: a.Node}, object)
	switch {
	case apierrors.IsNotFound(err):
		a.object = nil
		return nil
	case err != nil:
		return fmt.Errorf("reading PodAddresses %s: %w", a.Node, err)
	}
	a.object = object
	return nil
}

// write has the API server have these pods. It asks nothing if the API server has them already. If
// somebody else has written or deleted the object since it was read, it is read again and written
// once more.
func (a *Announcer) write(ctx context.Context, pods []v1alpha1.PodAddress) error {
	err := a.writeOnce(ctx, pods)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		if err = a.read(ctx); err == nil {
			err = a.writeOnce(ctx, pods)
		}
	}
	if err != nil {
		return fmt.Errorf("writing PodAddresses %s: %w", a.Node, err)
	}
	return nil
}

func (a *Announcer) writeOnce(ctx context.Context, pods []v1alpha1.PodAddress) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	object := &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: a.Node, OwnerReferences: a.owner()}, Pods: pods}
	var err error
	switch {
	case a.object == nil && len(pods) == 0:
		return nil
	case a.object == nil:
		err = a.Client.Create(ctx, object)
	case equal(pods, a.object.Pods):
		return nil
	default:
		object.ResourceVersion = a.object.ResourceVersion
		err = a.Client.Update(ctx, object)
	}
	if err == nil {
		a.object = object
	}
	return err
}

// owner has the object deleted with the Node.
func (a *Announcer) owner() []metav1.OwnerReference {
	uid := a.NodeUID()
	if uid == "" {
		return nil
	}
	return []metav1.OwnerReference{{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Node", Name: a.Node, UID: uid}}
}
