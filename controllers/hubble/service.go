package hubble

import (
	"context"
	"slices"
	"strings"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// namespacesOf is for how long a namespace is listed after its last flow; rateOver is over how long flows
// are counted to say how many there are per second.
const (
	namespacesOf = time.Hour
	rateOver     = time.Minute
)

// service answers the calls of Hubble's API. Its methods may be called from any goroutine.
type service struct {
	observerpb.UnimplementedObserverServer
	peerpb.UnimplementedPeerServer

	store         *observer.Store
	convert       *converter
	node, version string
	peers         *peers
	tls           bool
	started       time.Time
}

func newService(o *Options) *service {
	return &service{
		store: o.Store, convert: newConverter(o.Node, o.Version), node: o.Node, version: o.Version,
		peers: newPeers(o.Peers), tls: o.TLS.Given(), started: time.Now(),
	}
}

// notePeers says that the peers may have changed.
func (s *service) notePeers() { s.peers.note() }

// GetFlows sends flows that are kept, and those that come.
func (s *service) GetFlows(r *observerpb.GetFlowsRequest, stream observerpb.Observer_GetFlowsServer) error {
	q, err := readQuery(s.store, s.convert, s.node, r)
	if err != nil {
		return err
	}
	return q.run(stream.Context(), stream.Send)
}

// GetAgentEvents has nothing to tell: Cilium's agent tells of its endpoints and policies by it.
func (*service) GetAgentEvents(*observerpb.GetAgentEventsRequest, observerpb.Observer_GetAgentEventsServer) error {
	return status.Error(codes.Unimplemented, "podfence has no agent events: its log, its Events and kubectl podfence status say what it does")
}

// GetDebugEvents has nothing to tell: they are of Cilium's programs in the kernel.
func (*service) GetDebugEvents(*observerpb.GetDebugEventsRequest, observerpb.Observer_GetDebugEventsServer) error {
	return status.Error(codes.Unimplemented, "podfence has no debug events: kubectl podfence explain --verify says what the kernel does to a packet")
}

// GetNodes lists the peers. How it is, each says itself: here that is this node.
func (s *service) GetNodes(ctx context.Context, _ *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	self, err := s.ServerStatus(ctx, nil)
	if err != nil {
		return nil, err
	}
	all := &observerpb.GetNodesResponse{}
	peers, _ := s.peers.get()
	for _, p := range peers {
		node := &observerpb.Node{Name: p.Name, Address: p.Address, Tls: &observerpb.TLS{Enabled: s.tls}}
		if s.tls {
			node.Tls.ServerName = p.serverName()
		}
		if p.Name == s.node {
			node.State = relaypb.NodeState_NODE_CONNECTED
			node.Version, node.UptimeNs = self.GetVersion(), self.GetUptimeNs()
			node.NumFlows, node.MaxFlows, node.SeenFlows = self.GetNumFlows(), self.GetMaxFlows(), self.GetSeenFlows()
		}
		all.Nodes = append(all.Nodes, node)
	}
	return all, nil
}

// GetNamespaces lists the namespaces of the kept flows of the last hour.
func (s *service) GetNamespaces(context.Context, *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	seen := map[string]bool{}
	s.lately(namespacesOf, func(f *flows.Flow) {
		seen[f.Source.Namespace], seen[f.Destination.Namespace] = true, true
	})
	delete(seen, "")
	all := &observerpb.GetNamespacesResponse{}
	for name := range seen {
		all.Namespaces = append(all.Namespaces, &observerpb.Namespace{Cluster: cluster, Namespace: name})
	}
	slices.SortFunc(all.Namespaces, func(a, b *observerpb.Namespace) int { return strings.Compare(a.GetNamespace(), b.GetNamespace()) })
	return all, nil
}

// lately calls f for each kept flow that is no older than that.
func (s *service) lately(age time.Duration, f func(*flows.Flow)) {
	since := time.Now().Add(-age)
	oldest, last := s.store.Bounds()
	for number := oldest; number <= last; number++ {
		flow, at := s.store.Get(number)
		if flow == nil || at > last {
			return
		}
		if number = at; !flow.Time.Before(since) {
			f(flow)
		}
	}
}

// ServerStatus says how many flows there are. It counts podfence's, of which each may be two of Hubble's.
func (s *service) ServerStatus(context.Context, *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	oldest, last := s.store.Bounds()
	var count float64
	s.lately(rateOver, func(*flows.Flow) { count++ })
	return &observerpb.ServerStatusResponse{
		NumFlows: last + 1 - oldest, MaxFlows: uint64(s.store.Size()), SeenFlows: last,
		UptimeNs: uint64(time.Since(s.started)), Version: "podfence " + s.version,
		FlowsRate: count / min(rateOver, max(time.Since(s.started), time.Second)).Seconds(),
	}, nil
}
