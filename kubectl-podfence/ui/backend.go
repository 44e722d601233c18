package ui

import (
	"context"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// Backend is where what a page shows comes from. Its functions may be called by several goroutines at once.
type Backend struct {
	// Source says in words what is read, such as "context kind-test" or "files shop/".
	Source string
	// Read reads all objects.
	Read func(ctx context.Context) (*Objects, error)
	// Change reads documents of YAML as kubectl apply would put them into a cluster.
	Change func(yaml []byte, into *explain.Cluster) (*explain.Cluster, error)
	// Observe calls each for flows as they come, and say for what has to be said of agents, until ctx is done or
	// nothing more will come. Nil: there is nobody to ask, and NoFlows says why.
	Observe func(ctx context.Context, q flows.Query, each func(*flows.Flow) error, say func(text string)) error
	NoFlows string
}

// Objects are what was read.
type Objects struct {
	Cluster *explain.Cluster
	// Options are the agents' choices that change verdicts.
	Options policy.JudgeOptions
	// Notes say what could not be read.
	Notes []explain.Note
	// Explainer is ready for questions about Cluster.
	Explainer *explain.Explainer
	// Complete adds to an explanation what only the source knows, such as where rules are written.
	Complete func(*explain.Explanation)
	// Compare says what a change from Cluster makes of it.
	Compare func(after *explain.Cluster) *explain.Diff
}
