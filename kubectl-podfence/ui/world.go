package ui

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

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
	read       time.Time
	took       time.Duration
	policies   []policyText
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

// again reads the objects, unless that was done since the given generation. What was read before stays if it fails.
func (w *world) again(ctx context.Context, since int) (*moment, error) {
	w.reading.Lock()
	defer w.reading.Unlock()
	w.mu.Lock()
	before := w.now
	w.mu.Unlock()
	if before != nil && before.generation > since {
		return before, nil
	}
	began := time.Now()
	objects, err := w.backend.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", w.backend.Source, err)
	}
	m := &moment{Objects: objects, atlas: objects.Explainer.Atlas(), generation: 1, read: time.Now(), policies: policiesOf(objects.Cluster)}
	m.took = m.read.Sub(began)
	if before != nil {
		m.generation = before.generation + 1
	}
	w.mu.Lock()
	w.now = m
	w.mu.Unlock()
	return m, nil
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
