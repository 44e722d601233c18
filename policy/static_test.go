package policy_test

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestStaticPod: the runtime tells a static pod's own UID, which the API server's mirror
// of it has in an annotation. A mirror that is made anew has another UID, and is still
// the same pod's.
func TestStaticPod(t *testing.T) {
	m := policy.NewModel(random.Node)
	a := policy.Attachment{
		ContainerID: "c1", IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: "web-node-1"}, UID: "df7cc47f",
		IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")},
	}
	m.SetAttachment(a)
	for _, step := range []struct {
		annotations map[string]string
		known       bool
	}{
		{map[string]string{corev1.MirrorPodAnnotationKey: "df7cc47f"}, true},
		{map[string]string{corev1.MirrorPodAnnotationKey: "0a4e1d22"}, false},
		{nil, false},
	} {
		pod, live := policy.PodOf(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-node-1", UID: "5c582d4d-bb18", Annotations: step.annotations},
			Spec:       corev1.PodSpec{NodeName: random.Node},
		})
		if !live {
			t.Fatal("not live")
		}
		m.SetPod(pod)
		if _, known := m.Attached(a); known != step.known {
			t.Errorf("annotations %v: known %t", step.annotations, known)
		}
	}
}
