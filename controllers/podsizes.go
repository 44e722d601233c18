package controllers

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// Each agent keeps all of the cluster's pods with their labels and the names of their
// ports. Nothing but the size of an object, a megabyte and a half, bounds how many of these
// a pod has, so whoever may create pods in one namespace could make all agents run out of
// memory. What usual pods have is free. What a namespace's pods have beyond that has a limit.

const (
	// podFreeBytes is what each pod's labels and ports may take without being counted: usual
	// pods have some hundred bytes of them.
	podFreeBytes = 2 << 10
	// namespacePodBytes is what one namespace's pods may take beyond that, and podBytes what
	// the pods of all namespaces may.
	namespacePodBytes, podBytes = 8 << 20, 32 << 20
	// labelBytes and portBytes are what a label and a port take besides their texts.
	labelBytes, portBytes = 2, 40
	// maxUID is how many bytes of its UID are kept of a pod that is not kept: a longer text is no
	// UID.
	maxUID = 64
)

// podSizes are how much the pods take that the cache keeps. Its methods may be called
// concurrently.
type podSizes struct {
	shares
	// onUnkept is called once for a pod that is not kept, with the reason; nil: nobody is told.
	onUnkept func(p *corev1.Pod, why string)

	unkeptMu sync.Mutex
	unkept   map[policy.Key]struct{}
}

func newPodSizes() *podSizes {
	return &podSizes{shares: newShares(namespacePodBytes, podBytes), unkept: map[policy.Key]struct{}{}}
}

// tell has onUnkept called for pods that are not kept. It must be called before there are pods.
func (s *podSizes) tell(onUnkept func(p *corev1.Pod, why string)) { s.onUnkept = onUnkept }

// memoryOfPod is how many bytes a pod's labels, ports and UID take beyond what is free.
func memoryOfPod(p *corev1.Pod) (bytes int) {
	for key, value := range p.Labels {
		bytes += len(key) + len(value) + labelBytes
	}
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			for j := range containers[i].Ports {
				bytes += len(containers[i].Ports[j].Name) + portBytes
			}
		}
	}
	bytes += len(p.Annotations[corev1.MirrorPodAnnotationKey])
	return max(0, bytes-podFreeBytes)
}

// keep is what policy is to see of a pod: all that it looks at, or if there is no room,
// that there is such a pod.
func (s *podSizes) keep(p *corev1.Pod) (pod *policy.Pod, seen bool) {
	key := keyOf(p)
	if pod, seen = policy.PodOf(p); !seen {
		s.forget(key)
		return nil, false
	}
	if s.count(key, memoryOfPod(p)) {
		s.note(key, false)
		return pod, true
	}
	s.set(key, 0)
	pod = pod.Unkept()
	pod.UID = pod.UID[:min(len(pod.UID), maxUID)]
	if s.note(key, true) && s.onUnkept != nil {
		s.onUnkept(p, tooLarge)
	}
	return pod, true
}

// note notes whether a pod is not kept, and reports whether that has changed.
func (s *podSizes) note(key policy.Key, unkept bool) bool {
	s.unkeptMu.Lock()
	defer s.unkeptMu.Unlock()
	_, was := s.unkept[key]
	if unkept {
		s.unkept[key] = struct{}{}
	} else {
		delete(s.unkept, key)
	}
	return unkept != was
}

// forget notes that a pod is gone.
func (s *podSizes) forget(key policy.Key) {
	s.set(key, 0)
	s.note(key, false)
}

// metric is how many pods are not kept.
func (s *podSizes) metric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "podfence_pods_too_large", Help: "Pods of the cluster whose labels and ports the agent has no room for: isolated, and meant by no selector but those of all pods; an Event on each.",
	}, func() float64 {
		s.unkeptMu.Lock()
		defer s.unkeptMu.Unlock()
		return float64(len(s.unkept))
	})
}

// tooLarge is why a pod is not kept.
var tooLarge = fmt.Sprintf("the labels and ports of a pod may take %d kB, and what those of a namespace's pods take beyond that %d MB of the agent's memory, and %d MB with those of all others, and with this one they would take more: "+
	"it is isolated, and no selector means it but those of all pods, until it is changed and there is room", podFreeBytes>>10, namespacePodBytes>>20, podBytes>>20)
