package hubble

import (
	"context"
	"fmt"
	"net"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"github.com/go-logr/logr"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"

	"github.com/podfence/podfence/controllers/observer"
)

// What clients may take at once.
const (
	// maxConnections is how many may be connected; others wait in the kernel's queue. Each may have
	// callsOfConnection calls under way, and all together maxStreams that go on.
	maxConnections    = 64
	callsOfConnection = 32
	maxStreams        = 64
	// maxRequest is the most bytes of a request.
	maxRequest = 256 << 10
	// sendTimeout is how long a client may take for one message.
	sendTimeout = 10 * time.Second
	// pingAfter is how long nothing is heard of a client until it is asked whether it is there, and
	// pingTimeout how long it may take to answer.
	pingAfter, pingTimeout = 30 * time.Second, 10 * time.Second
	// listenAgain is after how long the address, or the files of TLS, are tried again.
	listenAgain = 5 * time.Second
)

// healthName is the name by which hubble status asks for the observer's health.
const healthName = "hubble.server.Observer"

// Options are what a Server is told.
type Options struct {
	// Address is where to listen: an IP address and a port. Without TLS it must be a loopback address.
	Address string
	TLS     TLSFiles
	// Node is the node's name, and Version the program's.
	Node, Version string
	// Store has the flows.
	Store *observer.Store
	// Peers are the agents of all nodes, this one among them, in any order.
	Peers func() []Peer
	Log   logr.Logger
}

// Server serves Hubble's API. Its methods may be called from any goroutine.
type Server struct {
	options Options
	service *service
	// streams has a token for each call that goes on.
	streams chan struct{}
}

// New returns a server. Start runs it. Options whose address CheckAddress refuses are an error.
func New(o Options) (*Server, error) {
	if err := CheckAddress(o.Address, o.TLS); err != nil {
		return nil, fmt.Errorf("serving Hubble's API: %w", err)
	}
	return &Server{options: o, streams: make(chan struct{}, maxStreams), service: newService(&o)}, nil
}

// NotePeers says that the peers may have changed. It does not wait.
func (s *Server) NotePeers() { s.service.notePeers() }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent serves.
func (*Server) NeedLeaderElection() bool { return false }

// Start serves until ctx is done. It implements manager.Runnable. If somebody else has the address, or the
// files of TLS are not there, the node is fenced no less: that is tried again until it works.
func (s *Server) Start(ctx context.Context) error {
	for said := ""; ; {
		err := s.listen(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != said {
			s.options.Log.Error(err, "Cannot serve Hubble's API; trying again", "address", s.options.Address, "retryAfter", listenAgain.String())
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

// listen serves at the address until ctx is done, or until that fails.
func (s *Server) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var options []grpc.ServerOption
	if files := s.options.TLS; files.Given() {
		watcher, err := certwatcher.New(files.Cert, files.Key)
		if err != nil {
			return fmt.Errorf("reading the server's certificate for Hubble's API: %w", err)
		}
		go func() {
			if err := watcher.Start(ctx); err != nil {
				s.options.Log.Error(err, "The certificate for Hubble's API is not read again when it changes", "file", files.Cert)
			}
		}()
		options = append(options, grpc.Creds(credentials.NewTLS(files.config(watcher.GetCertificate))))
	}
	listener, err := net.Listen("tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("listening for Hubble's API: %w", err)
	}
	s.options.Log.V(1).Info("Serving Hubble's API", "address", listener.Addr().String(), "tls", s.options.TLS.Given())
	return s.serve(ctx, netutil.LimitListener(listener, maxConnections), options...)
}

// serve serves whoever comes by a listener, which it closes, until ctx is done.
func (s *Server) serve(ctx context.Context, listener net.Listener, options ...grpc.ServerOption) error {
	server := grpc.NewServer(append(options,
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxConcurrentStreams(callsOfConnection), grpc.StreamInterceptor(s.limitStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.ConnectionTimeout(sendTimeout),
	)...)
	observerpb.RegisterObserverServer(server, s.service)
	peerpb.RegisterPeerServer(server, s.service)
	healthy := health.NewServer()
	healthy.SetServingStatus(healthName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, healthy)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving Hubble's API: %w", err)
	case <-ctx.Done():
		server.Stop()
		return ctx.Err()
	}
}

// limitStreams refuses calls that go on when there are many.
func (s *Server) limitStreams(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
		return handle(server, stream)
	default:
		return status.Errorf(codes.ResourceExhausted, "%d calls observe this node already: end one of them", maxStreams)
	}
}
