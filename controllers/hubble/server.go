package hubble

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"github.com/go-logr/logr"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"

	"github.com/podfence/podfence/controllers/observer"
)

// What clients may take at once. All together, however many there are and whatever they do, take less than
// 4 MB (TestClientsAreBounded).
const (
	// maxConnections is how many may be connected; others wait in the kernel's queue. Each may have
	// callsOfConnection calls under way. Of all together, maxCalls are answered, of which maxStreams may go on.
	maxConnections    = 16
	callsOfConnection = 24
	maxCalls          = 32
	maxStreams        = 24
	// maxRequest is the most bytes of a request, and maxHeader of its header.
	maxRequest, maxHeader = 16 << 10, 8 << 10
	// window is how much of a request is taken before it is read.
	window = 64 << 10
	// sendBuffer is how much the kernel takes for a client that does not read. It may take twice as much.
	sendBuffer = 16 << 10
	// sendTimeout is how long a client may take for one message, and for a request.
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
	// calls has a token for each call, and streams one for each that goes on.
	calls, streams chan struct{}
	// sendTimeout is how long a client may take for one message, and for a request.
	sendTimeout time.Duration
}

// New returns a server. Start runs it. Options whose address CheckAddress refuses are an error.
func New(o Options) (*Server, error) {
	if err := CheckAddress(o.Address, o.TLS); err != nil {
		return nil, fmt.Errorf("serving Hubble's API: %w", err)
	}
	return &Server{
		options: o, service: newService(&o), calls: make(chan struct{}, maxCalls), streams: make(chan struct{}, maxStreams), sendTimeout: sendTimeout,
	}, nil
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
	var secure *tls.Config
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
		secure = files.config(watcher.GetCertificate)
	}
	listener, err := net.Listen("tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("listening for Hubble's API: %w", err)
	}
	s.options.Log.V(1).Info("Serving Hubble's API", "address", listener.Addr().String(), "tls", secure != nil)
	return s.serve(ctx, netutil.LimitListener(newClients(listener, secure == nil, s.options.Log), maxConnections), secure)
}

// serve serves whoever comes by a listener, which it closes, until ctx is done. secure is nil for no TLS.
//
// The connections are net/http's: gRPC's own server keeps up to 64 kB for each call of a client that does not
// read, and goes on keeping them when the call has ended.
func (s *Server) serve(ctx context.Context, listener net.Listener, secure *tls.Config) error {
	calls := grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest), grpc.StreamInterceptor(s.limitStreams))
	defer calls.Stop()
	observerpb.RegisterObserverServer(calls, s.service)
	peerpb.RegisterPeerServer(calls, s.service)
	healthy := health.NewServer()
	healthy.SetServingStatus(healthName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(calls, healthy)
	server := &http.Server{
		Handler: s.limitCalls(calls), Protocols: &http.Protocols{}, TLSConfig: secure, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: sendTimeout,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: callsOfConnection, MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: sendTimeout,
		},
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(logr.ToSlogHandler(s.options.Log), slog.LevelDebug),
	}
	server.Protocols.SetHTTP2(secure != nil)
	server.Protocols.SetUnencryptedHTTP2(secure == nil)
	ended := make(chan error, 1)
	go func() {
		if secure != nil {
			ended <- server.ServeTLS(listener, "", "")
		} else {
			ended <- server.Serve(listener)
		}
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serving Hubble's API: %w", err)
	case <-ctx.Done():
		return errors.Join(ctx.Err(), server.Close())
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
