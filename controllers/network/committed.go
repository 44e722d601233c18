package network

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
)

// committed are the nodes and attachments that the enforcer has committed. Its methods may be
// called concurrently.
type committed struct {
	// nodesChanged holds a token when nodes have changed, or when everything was committed anew.
	// podsChanged holds one when attachments have changed.
	nodesChanged, podsChanged chan struct{}

	mu          sync.Mutex
	nodes       map[string]policy.Node
	attachments map[policy.AttachmentKey]policy.Attachment
}

func newCommitted() committed {
	return committed{
		nodesChanged: make(chan struct{}, 1), podsChanged: make(chan struct{}, 1),
		nodes: map[string]policy.Node{}, attachments: map[policy.AttachmentKey]policy.Attachment{},
	}
}

// otherNodes has a token when nodes have changed, and otherPods when attachments have changed.
func (k *committed) otherNodes() <-chan struct{} { return k.nodesChanged }
func (k *committed) otherPods() <-chan struct{}  { return k.podsChanged }

// take takes in a commit.
func (k *committed) take(c enforcer.Committed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.Intent != nil {
		k.nodes, k.attachments = maps.Clone(c.Intent.Nodes), maps.Clone(c.Intent.Attachments)
	}
	policy.Replace(k.nodes, c.Delta.Nodes)
	policy.Replace(k.attachments, c.Delta.Attachments)
	if c.Intent != nil || c.Delta.Cluster != nil {
		signal(k.nodesChanged)
	}
	if len(c.Delta.Attachments) > 0 {
		signal(k.podsChanged)
	}
}

// signal leaves one token in a channel.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// get returns the nodes in the order of their names, and the attachments in none.
func (k *committed) get() (nodes []policy.Node, attachments []policy.Attachment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	nodes = slices.SortedFunc(maps.Values(k.nodes), func(a, b policy.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes, slices.Collect(maps.Values(k.attachments))
}
