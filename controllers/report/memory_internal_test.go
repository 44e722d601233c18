package report

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"

	"github.com/podfence/podfence/policy"
)

// TestMemoryShort: when memory becomes short the log names whose policies take most, once.
func TestMemoryShort(t *testing.T) {
	var lines []string
	log := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
	model := policy.NewModel("node")
	for _, namespace := range []string{"large", "modest"} {
		model.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: namespace, Name: "pod"}, Node: "node", IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(len(namespace)) + namespace[0]})}}))
		rules := []policy.Rule{}
		for i := range 5 {
			rules = append(rules, policy.Rule{Index: i, AnyPort: true, Peers: []policy.Selector{{Namespace: namespace, Pods: strings.Repeat("a", i+1)}}})
		}
		if namespace == "modest" {
			rules = rules[:1]
		}
		model.Apply(policy.SetPolicy(policy.Policy{
			Key: policy.Key{Namespace: namespace, Name: "p"}, Subject: &policy.Selector{Namespace: namespace},
			Isolates: [2]bool{true, false}, Rules: [2][]policy.Rule{rules},
		}))
	}
	m := newMemory(log, func() []policy.Taken { return model.Most(1) })
	live, limit := int64(700), int64(math.MaxInt64)
	m.live, m.limit = func() int64 { return live }, func() int64 { return limit }
	m.look()
	limit = 1000
	m.look()
	if len(lines) > 0 {
		t.Fatalf("memory is not short: %v", lines)
	}
	live = 800
	m.look()
	m.look()
	if len(lines) != 1 || !strings.Contains(lines[0], "large (") || strings.Contains(lines[0], "modest") {
		t.Fatalf("the log says %v", lines)
	}
	live = 100
	m.look()
	if len(lines) != 2 || !strings.Contains(lines[1], "not short") {
		t.Errorf("the log says %v", lines)
	}
	if liveHeap() < 0 {
		t.Error("the heap is not measured")
	}
}
