package policy_test

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestStaticPod: the runtime tells a static pod's own UID, which the API server's mirror
// of it has in an annotation. A mirror that is made anew has another UID, and is still
// the same pod's.
func TestStaticPod(t *testing.T) {
	const static, mirror = "df7cc47f", "5c582d4d-bb18"
	for _, step := range []struct {
		told        types.UID
		annotations map[string]string
		known       bool
	}{
		{static, map[string]string{corev1.MirrorPodAnnotationKey: static, "kubernetes.io/config.hash": static}, true},
		{mirror, map[string]string{corev1.MirrorPodAnnotationKey: static}, true},
		{static, map[string]string{corev1.MirrorPodAnnotationKey: "0a4e1d22"}, false},
		{static, nil, false},
		{static, map[string]string{"kubernetes.io/config.hash": static}, false}, // anybody may write that
		{mirror, nil, true},
	} {
		m := policy.NewModel(random.Node)
		a := policy.Attachment{
			ContainerID: "c1", IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: "web-node-1"}, UID: step.told,
			IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")},
		}
		m.Apply(policy.SetAttachment(a))
		pod, live := policy.PodOf(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-node-1", UID: mirror, Annotations: step.annotations},
			Spec:       corev1.PodSpec{NodeName: random.Node},
		})
		if !live {
			t.Fatal("not live")
		}
		m.Apply(policy.SetPod(pod))
		uid, known := m.Attached(a)
		if known != step.known || known && step.annotations != nil && uid != static {
			t.Errorf("told %s, annotations %v: known %t, as %s", step.told, step.annotations, known, uid)
		}
	}
}
