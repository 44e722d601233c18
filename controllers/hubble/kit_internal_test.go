package hubble

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/go-logr/logr/testr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// noon is when the flows of these tests begin.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pointer[T any](v T) *T { return &v }

// denied is a default deny of shop/web-0 to shop/db-0, whose number is the second it was seen in.
func denied(second int) *flows.Flow {
	return &flows.Flow{
		Time: noon.Add(time.Duration(second) * time.Second), Node: "node-1", Verdict: flows.Denied, Direction: flows.Ingress,
		Source: flows.Endpoint{
			IP: netip.MustParseAddr("10.244.2.3"), Port: 40000, Namespace: "shop", Pod: "web-0",
			Labels: map[string]string{"app": "web", "pod-template-hash": "77"}, Workload: &flows.Workload{Kind: "Deployment", Name: "web"},
		},
		Destination: flows.Endpoint{
			IP: netip.MustParseAddr("10.244.1.7"), Port: 5432, Namespace: "shop", Pod: "db-0",
			Labels: map[string]string{"app": "db"}, Workload: &flows.Workload{Kind: "StatefulSet", Name: "db"},
		},
		Protocol: "TCP", TCPFlags: "SYN", Reason: flows.DefaultDeny, Text: "no rule allows it",
		Policies: []flows.Policy{{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "db"}},
	}
}

// allowed is a connection of shop/web-0 to a host outside that has begun, over UDP and IPv6.
func allowed(second int) *flows.Flow {
	f := denied(second)
	f.Verdict, f.Event, f.Direction, f.Reason, f.Text = flows.Allowed, flows.Began, flows.Egress, "", ""
	f.Protocol, f.TCPFlags = "UDP", ""
	f.Source.IP = netip.MustParseAddr("fd00::3")
	f.Destination = flows.Endpoint{IP: netip.MustParseAddr("2001:db8::1"), Port: 53}
	f.DestinationNames = []string{"a.b.example.com"}
	f.Policies = []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Admin", Name: "dns", Rule: pointer(2), RuleName: "out"}}
	return f
}

// spoofed is a packet that is not from whom it says.
func spoofed(second int) *flows.Flow {
	f := denied(second)
	f.Reason, f.Direction, f.Policies, f.Protocol, f.TCPFlags = flows.Spoofed, "", nil, "ICMP", ""
	f.ICMPType, f.ICMPCode = pointer(uint8(8)), pointer(uint8(0))
	f.Source = flows.Endpoint{IP: netip.MustParseAddr("192.0.2.9")}
	f.Destination = flows.Endpoint{IP: netip.MustParseAddr("10.244.3.3"), Namespace: "kube-system", Pod: "dns-0", Labels: map[string]string{"k8s-app": "kube-dns"}}
	return f
}

// served is a server of these tests, and a client of it.
type served struct {
	store  *observer.Store
	server *Server
	conn   *grpc.ClientConn
	client observerpb.ObserverClient
}

// serve serves a store, over a connection in memory.
func serve(t *testing.T, store *observer.Store, change ...func(*Server)) *served {
	t.Helper()
	server, err := New(Options{
		Address: "127.0.0.1:4244", Node: "node-1", Version: "v1.2.3", Store: store, Log: testr.New(t),
		Peers: func() []Peer { return []Peer{{"node-1", "10.0.0.1:4244"}, {"node-2.example.com", "[fd00::2]:4244"}} },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(server)
	}
	listener := bufconn.Listen(1 << 10)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.serve(ctx, listener, nil) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		<-ended
	})
	return &served{store, server, conn, observerpb.NewObserverClient(conn)}
}

// stored is a store with these flows.
func stored(size int, all ...*flows.Flow) *observer.Store {
	store := observer.NewStore(size, nil)
	for _, f := range all {
		store.Add(f)
	}
	return store
}

// drops is a filter for the event of a packet that was dropped, which is one for each denial.
func drops() []*flowpb.FlowFilter {
	return []*flowpb.FlowFilter{{EventType: []*flowpb.EventTypeFilter{{Type: eventDrop}}}}
}

func at(second int) *timestamppb.Timestamp {
	return timestamppb.New(noon.Add(time.Duration(second) * time.Second))
}
