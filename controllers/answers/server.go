package answers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/net/netutil"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/build"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// Kernel is asked what the kernel has. Its methods may be called from any goroutine.
type Kernel interface {
	// Trace is what the kernel would do to a packet on its way, up to where it is denied.
	Trace(ctx context.Context, way []nft.Visit) ([]nft.Visited, error)
	// LinkTo is the link that the route to an address leads to, and Link the one of a name; nil: there
	// is none.
	LinkTo(netip.Addr) (*nft.Link, error)
	Link(name string) (*nft.Link, error)
	// FlowsOf are at most so many of the flows that packets like this have begun; it counts all, and
	// those that carry the bit.
	FlowsOf(ctx context.Context, p packet.Packet, bit uint32, most int) (flows []nft.TrackedFlow, all, revoked int, err error)
	// WouldCut tells of the flows without the bit that pass as it is, and would be cut; it returns how many of those
	// that it has looked at are open.
	WouldCut(ctx context.Context, bit uint32, asIs, wouldBe func(nft.HookPoint, packet.Packet) bool, tell func(nft.OpenFlow)) (open int, err error)
	// Counts reports whether the kernel counts what flows carry that begin from now on.
	Counts() bool
}

// Model is asked what the node enforces. Its methods may be called from any goroutine.
type Model interface {
	Counts() policy.Counts
	Attachments() []policy.Attachment
	// StagedPolicies are the policies that are staged, in order.
	StagedPolicies() []policy.Key
	// KnownNames are what domain names are resolved to, and some of that whose time is over, both in order.
	KnownNames() (counting, lapsed []policy.Resolution)
}

// Options are what a Server is told.
type Options struct {
	// Address is where to listen: a loopback address and a port.
	Address string
	// Node is the node's name, and Source where objects come from.
	Node, Source string
	// Build is what the program was built of.
	Build build.Info
	// Choices are the agent's that change verdicts. OwnsTables: the kernel lets nobody else change the
	// tables.
	Choices    answers.Options
	OwnsTables bool
	// BridgeTable: there is a table of family bridge for the links of another plugin's pods.
	BridgeTable bool
	// ProcSys is where sysctls of the node's network namespace are read; empty: nowhere.
	ProcSys string
	// BridgeMAC is that of podfence's bridge, if that connects the pods.
	BridgeMAC [6]byte

	Model    Model
	Health   *report.Health
	Problems *report.Problems
	// Waiting are the pods that cannot be connected yet, in no order. Nil: none is known.
	Waiting func() []answers.WaitingPod
	// Kernel is nil where there is none to ask: then traces are refused.
	Kernel Kernel
	// Supposer and Names say which connections would be cut, and who has an address. Nil where that is not known:
	// then who asks for it is refused.
	Supposer Supposer
	Names    observer.Names
	// Flows are what was last seen of denied packets and of connections; nil: they are not kept, and who asks
	// for them is refused.
	Flows *observer.Store
	Log   logr.Logger
}

// Server answers. Its methods may be called from any goroutine.
type Server struct {
	options Options
	started time.Time
	history history
	counted counted
	listed  listed
	// tracing has a token for each trace, or look at connections, that is under way.
	tracing chan struct{}
	// streaming has a token for each who reads flows.
	streaming chan struct{}
	// living has a token for each who asks which connections would be cut.
	living chan struct{}
}

// What is asked at once, and for how long.
const (
	// tracesAtOnce is how many traces there are at once; the others wait for up to traceWait. resting is for how
	// many times as long as a trace has taken there is none after it.
	tracesAtOnce = 1
	resting      = 3
	traceWait    = 2 * time.Second
	// traceTimeout is how long a trace may take.
	traceTimeout = 5 * time.Second
	// maxConnections is how many may be connected at once; others wait in the kernel's queue.
	maxConnections = 64
	maxHeader      = 8 << 10
	// listenAgain is after how long the address is tried again.
	listenAgain = 5 * time.Second
	// readTimeout, writeTimeout and idleTimeout end connections of who is slow.
	readTimeout, writeTimeout, idleTimeout = 5 * time.Second, 15 * time.Second, 30 * time.Second
)

// New returns a server. Start runs it.
func New(o Options) *Server {
	return &Server{options: o, started: time.Now(), tracing: make(chan struct{}, tracesAtOnce), streaming: make(chan struct{}, streamsAtOnce), living: make(chan struct{}, livesAtOnce)}
}

// Note notes an outcome, for statuses. It does not wait.
func (s *Server) Note(outcome enforcer.Outcome) { s.history.note(outcome, time.Now()) }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent answers.
func (*Server) NeedLeaderElection() bool { return false }

// Start answers until ctx is done. It implements manager.Runnable. Whoever has the address already, such as
// an agent that is about to end, keeps the node fenced no less: it is tried again until it is free.
func (s *Server) Start(ctx context.Context) error {
	for said := ""; ; {
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != said {
			s.options.Log.Error(err, "Cannot answer questions; trying again", "address", s.options.Address, "retryAfter", listenAgain.String())
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

// serve answers until ctx is done, or until that fails.
func (s *Server) serve(ctx context.Context) error {
	listener, err := net.Listen("tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("listening for questions at --query-address: %w", err)
	}
	server := &http.Server{
		Handler: s.Handler(), MaxHeaderBytes: maxHeader,
		ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(netutil.LimitListener(listener, maxConnections)) }()
	select {
	case err := <-ended:
		return fmt.Errorf("answering questions: %w", err)
	case <-ctx.Done():
		return server.Close()
	}
}

// Handler answers all paths.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(answers.StatusPath, func(w http.ResponseWriter, r *http.Request) {
		if allowed(w, r, http.MethodGet) {
			write(w, http.StatusOK, s.status(time.Now(), r.URL.Query().Get(answers.NamespaceParameter)))
		}
	})
	mux.HandleFunc(answers.TracePath, s.serveTrace)
	mux.HandleFunc(answers.LivePath, s.serveLive)
	mux.HandleFunc(answers.NamesPath, s.serveNames)
	mux.HandleFunc(flows.Path, s.serveFlows)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "NotFound", fmt.Sprintf("there is nothing at %s: ask %s, %s, %s, %s or %s", r.URL.Path, answers.StatusPath, answers.TracePath, answers.LivePath, answers.NamesPath, flows.Path))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What is routed to a loopback address from elsewhere is nobody of this node. A browser that some page
		// has sent here, by a name that leads to a loopback address, says that name as the host (DNS
		// rebinding). No page may read an answer either: there is no CORS, and none is made for an image.
		site := r.Header.Get("Sec-Fetch-Site")
		if !isLoopback(r.RemoteAddr) {
			fail(w, http.StatusForbidden, "Forbidden", "questions are answered on the node itself: ask from a loopback address")
			return
		}
		if !isLoopback(r.Host) || r.Header.Get("Origin") != "" || site != "" && site != "none" {
			fail(w, http.StatusForbidden, "Forbidden", fmt.Sprintf("the host is %q: ask by a loopback address or localhost, and not from a web page", r.Host))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// serveTrace answers a question about a packet.
func (s *Server) serveTrace(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, http.MethodGet, http.MethodPost) {
		return
	}
	q, err := read(w, r)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "TooLarge", fmt.Sprintf("the question has more than %d bytes", maxBody))
		return
	}
	var p packet.Packet
	if err == nil {
		p, err = complete(&q)
	}
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	case s.options.Kernel == nil:
		fail(w, http.StatusServiceUnavailable, "Unavailable", "this agent has no kernel to ask")
		return
	}
	if !s.begin(r.Context()) {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusTooManyRequests, "TooManyRequests", "many traces were asked for, and one is made at a time: ask again in a second")
		return
	}
	defer s.end(time.Now())
	ctx, cancel := context.WithTimeout(r.Context(), traceTimeout)
	defer cancel()
	trace, err := s.trace(ctx, q, p)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "Unavailable", fmt.Sprintf("what the kernel does to %s cannot be told: %v", p, err))
		return
	}
	write(w, http.StatusOK, trace)
}

// end gives the turn of a trace that began then to the next one, after a rest. So all who ask together take a
// quarter of a processor at most, and commits have the others.
func (s *Server) end(began time.Time) {
	time.AfterFunc(min(resting*time.Since(began), traceWait), func() { <-s.tracing })
}

// begin waits for its turn for a while. Whoever gets it gives it back.
func (s *Server) begin(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, traceWait)
	defer cancel()
	select {
	case s.tracing <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// isLoopback reports whether the Host of a request is localhost or a loopback address, with or without a
// port.
func isLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return strings.EqualFold(name, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

// allowed reports whether a request has one of the methods, and else says that it has not.
func allowed(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, method := range methods {
		if r.Method == method {
			return true
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	fail(w, http.StatusMethodNotAllowed, "MethodNotAllowed", fmt.Sprintf("%s takes %s, and not %s", r.URL.Path, strings.Join(methods, " and "), r.Method))
	return false
}

func fail(w http.ResponseWriter, code int, reason, message string) {
	write(w, code, answers.Failure{TypeMeta: answers.TypeMeta{APIVersion: answers.Version, Kind: "Failure"}, Reason: reason, Message: message})
}

// write writes an answer. Who has gone does not hear it.
func write(w http.ResponseWriter, code int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // all answers are plain values
}
