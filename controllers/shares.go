package controllers

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// shares are how much memory there is for objects of a kind, in bytes, and which objects take it.
// There is a limit for one namespace and one for all together. Beyond the latter, only namespaces
// that have less than their share may take more. Its methods may be called concurrently.
type shares struct {
	// namespace is what one namespace's objects may take, all what all may.
	namespace, all int

	mu    sync.Mutex
	sizes map[string]map[string]int // by namespace and name
	taken map[string]int            // by namespace
	total int
}

func newShares(namespace, all int) shares {
	return shares{namespace: namespace, all: all, sizes: map[string]map[string]int{}, taken: map[string]int{}}
}

func keyOf(o metav1.Object) policy.Key {
	return policy.Key{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// count takes an object in if there is room for it. For an object of size 0 there always is.
func (s *shares) count(key policy.Key, size int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := size - s.sizes[key.Namespace][key.Name]
	taken, total := s.taken[key.Namespace]+more, s.total+more
	if size > 0 && (taken > s.namespace || total > s.all && taken > s.all/max(len(s.sizes), 1)) {
		return false
	}
	s.put(key, size)
	return true
}

// set takes an object in, whether there is room or not.
func (s *shares) set(key policy.Key, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(key, size)
}

// put notes an object's size; 0: it takes nothing, or is gone.
func (s *shares) put(key policy.Key, size int) {
	names := s.sizes[key.Namespace]
	more := size - names[key.Name]
	s.total += more
	if size > 0 {
		if names == nil {
			names = map[string]int{}
			s.sizes[key.Namespace] = names
		}
		names[key.Name] = size
		s.taken[key.Namespace] += more
		return
	}
	if names == nil {
		return
	}
	s.taken[key.Namespace] += more
	if delete(names, key.Name); len(names) == 0 {
		delete(s.sizes, key.Namespace)
		delete(s.taken, key.Namespace)
	}
}

// forget notes that an object is gone.
func (s *shares) forget(key policy.Key) { s.set(key, 0) }
