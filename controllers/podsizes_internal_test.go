package controllers

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// largePod is a pod with labels and ports of so many bytes of memory.
func largePod(namespace, name string, bytes int) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid", Labels: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{}}},
		Status:     corev1.PodStatus{PodIP: "10.0.0.1"},
	}
	for i := range bytes / 2 / 20 {
		p.Labels[fmt.Sprintf("%08d", i)] = "0123456789"
	}
	for i := range bytes / 2 / (8 + portBytes) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{
			Name: fmt.Sprintf("%08d", i), ContainerPort: int32(1 + i%60_000), Protocol: corev1.ProtocolTCP,
		})
	}
	return p
}

// TestPodSizes: what the cache keeps of one namespace's pods beyond what is free has a limit,
// and of all namespaces' too. A pod that is not kept is so once told of, and kept again when
// it is changed and there is room; it leaves nothing when it is gone.
func TestPodSizes(t *testing.T) {
	s := newPodSizes()
	s.namespace, s.all = 100_000, 250_000
	var said []string
	s.onUnkept = func(p *corev1.Pod, _ string) { said = append(said, p.Name) }
	kept := func(p *corev1.Pod) bool {
		t.Helper()
		object, err := s.cache(p)
		if err != nil {
			t.Fatal(err)
		}
		have := object.(*cachedPod).seen
		want, _ := policy.PodOf(p)
		if reflect.DeepEqual(have, want) {
			return true
		}
		if !reflect.DeepEqual(have, want.Unkept()) {
			t.Errorf("of a pod that is not kept, there is %+v", have)
		}
		return false
	}
	for i := range 1000 {
		if !kept(largePod("usual", fmt.Sprint(i), 1<<10)) {
			t.Fatal("a usual pod is not kept")
		}
	}
	if s.total != 0 {
		t.Errorf("usual pods take %d bytes", s.total)
	}
	for i := range 9 {
		if !kept(largePod("shop", fmt.Sprint(i), 12<<10)) {
			t.Fatalf("pod %d is not kept", i)
		}
	}
	for range 2 {
		if kept(largePod("shop", "more", 12<<10)) {
			t.Error("a namespace's pods are kept without a limit")
		}
	}
	if !slices.Equal(said, []string{"more"}) {
		t.Errorf("told of are %v", said)
	}
	if !kept(largePod("shop", "more", 1<<10)) || kept(largePod("shop", "more", 12<<10)) || !kept(largePod("shop", "0", 11<<10)) || !kept(largePod("bank", "0", 12<<10)) {
		t.Error("a pod is not kept that is usual now, or smaller, or another namespace's; or one is that is large again")
	}
	s.forget(policy.Key{Namespace: "shop", Name: "1"})
	if !kept(largePod("shop", "more", 12<<10)) {
		t.Error("there is room again")
	}
	for _, namespace := range []string{"one", "two", "three"} {
		for i := range 10 {
			kept(largePod(namespace, fmt.Sprint(i), 12<<10))
		}
	}
	if s.total > 2*s.all {
		t.Errorf("%d bytes are kept of all", s.total)
	}
	if !kept(largePod("small", "0", 4<<10)) {
		t.Error("who has little pays for who has much")
	}

	// A mirror's annotation is its author's to write.
	mirror := largePod("shop", "mirror", 0)
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: strings.Repeat("x", 200<<10)}
	object, _ := s.cache(mirror)
	if seen := object.(*cachedPod).seen; !seen.Unread || len(seen.UID) > maxUID {
		t.Errorf("a UID of %d bytes is kept", len(seen.UID))
	}
	ended := largePod("shop", "more", 12<<10)
	ended.Status.Phase = corev1.PodSucceeded
	if object, _ := s.cache(ended); object.(*cachedPod).seen != nil || s.sizes["shop"]["more"] != 0 {
		t.Error("a pod that has ended takes room")
	}
	for namespace, names := range s.sizes {
		for name := range names {
			s.forget(policy.Key{Namespace: namespace, Name: name})
		}
	}
	for key := range s.unkept {
		s.forget(key)
	}
	if s.total != 0 || len(s.taken)+len(s.sizes)+len(s.unkept) != 0 {
		t.Errorf("left are %d bytes, %v, %v", s.total, s.taken, s.unkept)
	}
}
