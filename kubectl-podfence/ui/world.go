package ui

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/explain"
)

// world is what was last read.
type world struct {
	backend *Backend
	// reading is held while objects are read, so that they are read once for all who ask meanwhile.
	reading sync.Mutex
	mu      sync.Mutex
	now     *moment
}

func newWorld(b *Backend) *world { return &world{backend: b} }

// moment is the objects as they were once. It is not changed.
type moment struct {
	*Objects
	atlas      *explain.Atlas
	generation int
	// reading is the how many-th reading of the objects this is; most have changed nothing.
	reading  int
	read     time.Time
	took     time.Duration
	policies []policyText
}

// current is what was last read; read now if nothing was.
func (w *world) current(ctx context.Context) (*moment, error) {
	w.mu.Lock()
	now := w.now
	w.mu.Unlock()
	if now != nil {
		return now, nil
	}
	return w.again(ctx, 0)
}

// again reads the objects, unless that was done since the given reading. What was read before stays if it fails, and if
// nothing has changed, but for the time.
func (w *world) again(ctx context.Context, since int) (*moment, error) {
	w.reading.Lock()
	defer w.reading.Unlock()
	w.mu.Lock()
	before := w.now
	w.mu.Unlock()
	if before != nil && before.reading > since {
		return before, nil
	}
	began := time.Now()
	objects, err := w.backend.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", w.backend.Source, err)
	}
	var m *moment
	if before != nil && before.same(objects) {
		still, unchanged := *before, *before.Objects
		unchanged.Complete = objects.Complete // where it is written may have changed
		still.Objects = &unchanged
		m = &still
	} else {
		m = &moment{Objects: objects, atlas: objects.Explainer.Atlas(), generation: 1, policies: policiesOf(objects.Cluster)}
		if before != nil {
			m.generation = before.generation + 1
		}
	}
	m.reading = since + 1
	m.read = time.Now()
	m.took = m.read.Sub(began)
	w.mu.Lock()
	w.now = m
	w.mu.Unlock()
	return m, nil
}

// same reports whether objects are those that were read before.
func (m *moment) same(now *Objects) bool {
	a, b := m.Cluster, now.Cluster
	return m.Options == now.Options && slices.Equal(m.Notes, now.Notes) && a.NamesKnown == b.NamesKnown && slices.Equal(a.Resolutions, b.Resolutions) && slices.Equal(a.Lapsed, b.Lapsed) &&
		sameObjects(a.Pods, b.Pods) && sameObjects(a.Policies, b.Policies) && sameObjects(a.ClusterPolicies, b.ClusterPolicies) &&
		sameObjects(a.Namespaces, b.Namespaces) && sameObjects(a.Nodes, b.Nodes) && sameObjects(a.Services, b.Services) &&
		sameObjects(a.EndpointSlices, b.EndpointSlices) && sameObjects(a.Workloads, b.Workloads) && sameObjects(a.PodAddresses, b.PodAddresses)
}

// sameObjects reports whether two lists have the same versions of the same objects. Those of files have no version, and
// are compared.
func sameObjects[T metav1.Object](a, b []T) bool {
	return slices.EqualFunc(a, b, func(x, y T) bool {
		if version := x.GetResourceVersion(); version != "" {
			return x.GetUID() == y.GetUID() && version == y.GetResourceVersion()
		}
		return reflect.DeepEqual(x, y)
	})
}

// state is what the page says of all that it shows.
type state struct {
	Source          string         `json:"source"`
	Read            time.Time      `json:"read"`
	Seconds         float64        `json:"seconds"`
	Generation      int            `json:"generation"`
	Namespaces      int            `json:"namespaces"`
	Workloads       int            `json:"workloads"`
	Pods            int            `json:"pods"`
	Policies        int            `json:"policies"`
	ClusterPolicies int            `json:"clusterPolicies"`
	Nodes           int            `json:"nodes"`
	Notes           []explain.Note `json:"notes"`
	Flows           bool           `json:"flows"`
	FlowsReason     string         `json:"flowsReason,omitempty"`
	RefreshSeconds  float64        `json:"refreshSeconds"`
	Version         string         `json:"version"`
}

func (s *Server) state(m *moment) state {
	out := state{
		Source: s.backend.Source, Read: m.read, Seconds: m.took.Seconds(), Generation: m.generation,
		Namespaces: len(m.Cluster.Namespaces), Workloads: len(m.Cluster.Workloads), Policies: len(m.Cluster.Policies),
		ClusterPolicies: len(m.Cluster.ClusterPolicies), Nodes: len(m.Cluster.Nodes), Notes: m.Notes,
		Flows: s.backend.Observe != nil, FlowsReason: s.backend.NoFlows, Version: s.options.Version,
		// A cluster that takes long to read is read seldom.
		RefreshSeconds: max(s.options.Refresh, min(1, s.options.Refresh)*20*m.took).Seconds(),
	}
	for _, pod := range m.Cluster.Pods {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			out.Pods++
		}
	}
	if out.Notes == nil {
		out.Notes = []explain.Note{}
	}
	return out
}

// Read reads the objects now, so that the first who asks need not wait, and whoever has started the server hears of
// what cannot be read.
func (s *Server) Read(ctx context.Context) error {
	_, err := s.world.current(ctx)
	return err
}
