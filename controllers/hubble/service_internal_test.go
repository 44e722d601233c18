package hubble

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// TestServerStatus: how many flows there are, were, and fit, and how many come.
func TestServerStatus(t *testing.T) {
	store := stored(4)
	s := serve(t, store)
	empty, err := s.client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if err != nil || empty.GetNumFlows() != 0 || empty.GetSeenFlows() != 0 || empty.GetMaxFlows() != 4 || empty.GetFlowsRate() != 0 {
		t.Errorf("%v, %v", empty, err)
	}
	for range 6 {
		store.Add(denied(0)) // long ago
	}
	f := denied(0)
	f.Time = time.Now()
	store.Add(f)
	has, err := s.client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if err != nil || has.GetNumFlows() != 4 || has.GetSeenFlows() != 7 || has.GetVersion() != "podfence v1.2.3" || has.GetUptimeNs() == 0 {
		t.Errorf("%v, %v", has, err)
	}
	if rate := has.GetFlowsRate(); rate <= 0 || rate > 1 {
		t.Errorf("%g flows a second, where one has come", rate)
	}
	health, err := healthpb.NewHealthClient(s.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: healthName})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("hubble status would say %v, %v", health, err)
	}
}

// TestGetNamespaces: those of the last hour, each once, in order.
func TestGetNamespaces(t *testing.T) {
	old, now, outside := denied(0), spoofed(0), denied(0)
	now.Time, outside.Time = time.Now(), time.Now()
	outside.Source.Namespace = "apps"
	has, err := serve(t, stored(8, old, now, outside, now)).client.GetNamespaces(t.Context(), &observerpb.GetNamespacesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range has.GetNamespaces() {
		names = append(names, n.GetCluster()+"/"+n.GetNamespace())
	}
	if want := []string{"default/apps", "default/kube-system", "default/shop"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

// TestGetNodes: all peers, and of this one how it is.
func TestGetNodes(t *testing.T) {
	has, err := serve(t, stored(8, denied(0))).client.GetNodes(t.Context(), &observerpb.GetNodesRequest{})
	if err != nil || len(has.GetNodes()) != 2 {
		t.Fatalf("%v, %v", has, err)
	}
	self, other := has.GetNodes()[0], has.GetNodes()[1]
	if self.GetName() != "node-1" || self.GetNumFlows() != 1 || self.GetVersion() == "" || self.GetAddress() != "10.0.0.1:4244" {
		t.Errorf("%v", self)
	}
	if other.GetName() != "node-2.example.com" || other.GetVersion() != "" || other.GetState() == self.GetState() {
		t.Errorf("%v", other)
	}
}

// TestUnimplemented: what podfence has nothing of says where to look instead.
func TestUnimplemented(t *testing.T) {
	s := serve(t, stored(4))
	agent, err := s.client.GetAgentEvents(t.Context(), &observerpb.GetAgentEventsRequest{})
	if err == nil {
		_, err = agent.Recv()
	}
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "kubectl podfence status") {
		t.Errorf("%v", err)
	}
	debug, err := s.client.GetDebugEvents(t.Context(), &observerpb.GetDebugEventsRequest{})
	if err == nil {
		_, err = debug.Recv()
	}
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "--verify") {
		t.Errorf("%v", err)
	}
}

// TestNotify: all peers first, then what changes: one that comes, one that moves, one that goes.
func TestNotify(t *testing.T) {
	lists := make(chan []Peer, 1)
	now := []Peer{{"b", "10.0.0.2:4244"}, {"a.example.com", "10.0.0.1:4244"}}
	s := serve(t, stored(4), func(s *Server) {
		s.service.tls = true
		s.service.peers.list = func() []Peer {
			select {
			case now = <-lists:
			default:
			}
			return now
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := peerpb.NewPeerClient(s.conn).Notify(ctx, &peerpb.NotifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		for _, want := range want {
			n, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if have := n.GetType().String() + " " + n.GetName() + " " + n.GetAddress() + " " + n.GetTls().GetServerName(); have != want {
				t.Errorf("%s, want %s", have, want)
			}
		}
	}
	expect("PEER_ADDED a.example.com 10.0.0.1:4244 a-example-com.default.hubble-grpc.cilium.io", "PEER_ADDED b 10.0.0.2:4244 b.default.hubble-grpc.cilium.io")
	lists <- []Peer{{"b", "10.0.0.3:4244"}, {"c", "10.0.0.2:4244"}}
	s.server.NotePeers()
	expect("PEER_DELETED a.example.com 10.0.0.1:4244 a-example-com.default.hubble-grpc.cilium.io", "PEER_UPDATED b 10.0.0.3:4244 b.default.hubble-grpc.cilium.io",
		"PEER_ADDED c 10.0.0.2:4244 c.default.hubble-grpc.cilium.io")
}
