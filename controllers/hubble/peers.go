package hubble

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	peerpb "github.com/cilium/cilium/api/v1/peer"
)

// peersPause is how long a client that was told of changed peers is told nothing, so that many changes
// are told together.
const peersPause = time.Second

// Peer is an agent that serves Hubble's API: hubble-relay asks one for all of them, and then asks each of
// them.
type Peer struct {
	// Name is that of its node, and Address where it listens: an IP address and a port.
	Name, Address string
}

// serverName is the name that a peer's certificate must have, in the form that hubble-relay knows.
func (p Peer) serverName() string {
	return strings.ReplaceAll(p.Name, ".", "-") + "." + cluster + ".hubble-grpc.cilium.io"
}

// peers are the agents that serve Hubble's API. Its methods may be called from any goroutine.
type peers struct {
	list func() []Peer

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, when they may have changed
}

func newPeers(list func() []Peer) *peers { return &peers{list: list, changed: make(chan struct{})} }

// note says that they may have changed. It does not wait.
func (p *peers) note() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// get returns them, and a channel that is closed when they may be others.
func (p *peers) get() ([]Peer, <-chan struct{}) {
	p.mu.Lock()
	changed := p.changed
	p.mu.Unlock()
	return p.list(), changed
}

// Notify tells of all peers, and then of changes, until the client goes.
func (s *service) Notify(_ *peerpb.NotifyRequest, stream peerpb.Peer_NotifyServer) error {
	known := map[string]Peer{}
	for {
		all, changed := s.peers.get()
		for _, n := range s.news(known, all) {
			if err := stream.Send(n); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-changed:
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-time.After(peersPause):
		}
	}
}

// news is what has changed since known, in the order of names, and puts it into known.
func (s *service) news(known map[string]Peer, all []Peer) (news []*peerpb.ChangeNotification) {
	gone := maps.Clone(known)
	tell := func(kind peerpb.ChangeNotificationType, p Peer) {
		n := &peerpb.ChangeNotification{Type: kind, Name: p.Name, Address: p.Address}
		if s.tls {
			n.Tls = &peerpb.TLS{ServerName: p.serverName()}
		}
		news = append(news, n)
	}
	for _, p := range all {
		before, was := known[p.Name]
		delete(gone, p.Name)
		known[p.Name] = p
		switch {
		case !was:
			tell(peerpb.ChangeNotificationType_PEER_ADDED, p)
		case before != p:
			tell(peerpb.ChangeNotificationType_PEER_UPDATED, p)
		}
	}
	for name, p := range gone {
		delete(known, name)
		tell(peerpb.ChangeNotificationType_PEER_DELETED, p)
	}
	slices.SortStableFunc(news, func(a, b *peerpb.ChangeNotification) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return news
}
