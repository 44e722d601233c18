package controllers

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/recorder"
)

// TestIsNew: before the first load, which reads the cache whole, no pod is news; then
// those are that the model has not, or has as they were.
func TestIsNew(t *testing.T) {
	known := func(name string, uid types.UID) *policy.Pod {
		return &policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, UID: uid, Node: "node"}
	}
	r := &PodReconciler{NewSource()}
	r.enforcer = enforcer.New(&recorder.Kernel{}, enforcer.Options{Node: "node"})
	cached := func(name string, seen *policy.Pod) *cachedPod {
		return &cachedPod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, seen: seen}
	}
	held, unseen := known("held", "uid-1"), cached("finished", nil)
	if r.isNew(cached("web", known("web", "uid-1"))) || r.isNew(unseen) {
		t.Error("news before the first load")
	}
	r.loading.Store(true)
	r.enforcer.Feed(policy.SetPod(held))
	for what, x := range map[string]struct {
		pod  *cachedPod
		want bool
	}{
		"a pod that the model has not":                          {cached("web", known("web", "uid-1")), true},
		"one that it has":                                       {cached("held", held), false},
		"one that it has, read again":                           {cached("held", known("held", "uid-1")), true},
		"one that policy does not see, and the model has not":   {unseen, false},
		"one that policy sees no more, and the model has still": {cached("held", nil), true},
	} {
		if got := r.isNew(x.pod); got != x.want {
			t.Errorf("%s is new: %t", what, got)
		}
	}
}
