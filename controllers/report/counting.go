package report

import (
	"sync"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// CountAnnotation is the annotation by which a NetworkPolicy or a ClusterNetworkPolicy asks, with the value
// "true", for metrics of its own.
const CountAnnotation = "podfence.io/metrics"

// Bounds on how many policies have metrics of their own, for each of which there are up to four series.
// Anybody who may write policies may ask, so a namespace has a bound of its own; ClusterNetworkPolicies
// together are as a namespace.
const (
	mostCounted            = 200
	mostCountedOfNamespace = 20
)

// Counting knows which policies have metrics of their own. Who asks first is counted, and stays so as long
// as it asks, so that nobody can push out another. Its methods may be called concurrently, and never wait.
type Counting struct {
	log logr.Logger

	mu sync.Mutex
	// counted are those that have metrics, and left those that ask in vain. of is how many of counted are
	// in each namespace.
	counted, left map[policy.Key]struct{}
	of            map[string]int
}

func newCounting(log logr.Logger) *Counting {
	return &Counting{log: log, counted: map[policy.Key]struct{}{}, left: map[policy.Key]struct{}{}, of: map[string]int{}}
}

// Set notes a NetworkPolicy or a ClusterNetworkPolicy as it is now.
func (c *Counting) Set(object client.Object) {
	key := client.ObjectKeyFromObject(object)
	if object.GetAnnotations()[CountAnnotation] != "true" {
		c.Gone(key)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, is := c.counted[key]
	_, waits := c.left[key]
	if is || waits || c.count(key) {
		return
	}
	c.left[key] = struct{}{}
	warn(c.log, "A policy asks for metrics of its own, but too many have such: it has none until others cease to ask",
		append(named(key), "most", mostCounted, "mostOfANamespace", mostCountedOfNamespace)...)
}

// count gives a policy metrics if there is room. The caller holds mu.
func (c *Counting) count(key policy.Key) bool {
	if len(c.counted) >= mostCounted || c.of[key.Namespace] >= mostCountedOfNamespace {
		return false
	}
	c.counted[key] = struct{}{}
	c.of[key.Namespace]++
	return true
}

// Gone notes that a policy is gone, or asks no more. Another that has asked in vain may take its place.
func (c *Counting) Gone(key policy.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.left, key)
	if _, is := c.counted[key]; !is {
		return
	}
	delete(c.counted, key)
	if c.of[key.Namespace]--; c.of[key.Namespace] == 0 {
		delete(c.of, key.Namespace)
	}
	for other := range c.left {
		if c.count(other) {
			delete(c.left, other)
			return
		}
	}
}

// Policies are those that have metrics of their own. The caller may keep them.
func (c *Counting) Policies() map[policy.Key]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	policies := make(map[policy.Key]struct{}, len(c.counted))
	for key := range c.counted {
		policies[key] = struct{}{}
	}
	return policies
}
