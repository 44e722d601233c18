package agent

import (
	"math"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/controllers"
)

// scheme has Kubernetes' own objects and podfence's.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}()

// kinds are the few kinds that the agent reads and writes, whether or not the API server has them. They
// never change, so it need not be asked for them. That lets an agent wait that starts while the API server is away, as after
// a power cut. If it ended instead, it would be started again less and less often, up to five
// minutes after the API server is back.
func kinds(*rest.Config, *http.Client) (meta.RESTMapper, error) {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Event"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Service"), meta.RESTScopeNamespace)
	// Its plural is its singular, which the mapper would not guess.
	addresses := v1alpha1.GroupVersion.WithResource("podaddresses")
	mapper.AddSpecific(v1alpha1.GroupVersion.WithKind("PodAddresses"), addresses, addresses, meta.RESTScopeRoot)
	mapper.Add(networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"), meta.RESTScopeNamespace)
	for _, kind := range controllers.ClusterNetworkPolicyKinds() {
		mapper.Add(kind, meta.RESTScopeRoot)
	}
	return mapper, nil
}

// noTimeout is how long the controllers wait for their first list: as long as it takes, for the same
// reason. Meanwhile the agent is not ready.
const noTimeout = time.Duration(math.MaxInt64)
