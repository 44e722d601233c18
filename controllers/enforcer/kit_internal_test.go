package enforcer

import (
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/recorder"
)

// pod is a pod of the node, without an address.
func pod(name string) *policy.Pod {
	return &policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, UID: "uid", Node: "node"}
}

// texts are the plans that a kernel has carried out.
func texts(k *recorder.Kernel) string {
	var b strings.Builder
	for _, plan := range k.Plans() {
		b.WriteString(plan.Text())
	}
	return b.String()
}
