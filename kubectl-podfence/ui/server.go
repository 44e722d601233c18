package ui

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

//go:embed page
var page embed.FS

// maxBody is how large a change may be that is asked about.
const maxBody = 8 << 20

// Options say how a Server serves.
type Options struct {
	// Port is where it listens; 0: where the system chooses.
	Port int
	// Refresh is after how long the page has objects read again; 0: only if it is asked to.
	Refresh time.Duration
	// Version is the plugin's.
	Version string
}

// Server serves the page.
type Server struct {
	backend *Backend
	options Options
	world   *world
	token   string
	host    string
	listen  net.Listener
}

// Listen begins to listen, on loopback only. Nothing is answered before Serve.
func Listen(ctx context.Context, b Backend, o Options) (*Server, error) {
	s := &Server{backend: &b, options: o, world: newWorld(&b), token: newToken(), host: "127.0.0.1"}
	var lc net.ListenConfig
	listen, err := lc.Listen(ctx, "tcp", net.JoinHostPort(s.host, strconv.Itoa(o.Port)))
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) { // the machine has no IPv4
		s.host = "::1"
		listen, err = lc.Listen(ctx, "tcp", net.JoinHostPort(s.host, strconv.Itoa(o.Port)))
	}
	if err != nil {
		return nil, fmt.Errorf("listening for the browser: %w (--port chooses another port)", err)
	}
	s.listen = listen
	return s, nil
}

// URL is where a browser finds the page. Whoever knows it sees what its user may read.
func (s *Server) URL() string {
	return fmt.Sprintf("http://%s/%s/", s.listen.Addr(), s.token)
}

// Serve answers until ctx is done.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // streams go on until they are cut
	defer stop()
	if err := server.Serve(s.listen); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the page: %w", err)
	}
	return nil
}

// Handler answers requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // only if what is embedded has another name
	}
	mux.Handle("/", http.FileServerFS(files))
	for path, answer := range map[string]func(*moment, *http.Request) (any, error){
		"GET /api/state": func(m *moment, _ *http.Request) (any, error) { return s.state(m), nil }, "GET /api/map": drawMap, "GET /api/matrix": matrix,
		"GET /api/reach": reach, "GET /api/explain": explainPair, "GET /api/policies": listPolicies, "GET /api/policy": onePolicy, "POST /api/whatif": s.whatIf,
	} {
		mux.HandleFunc(path, s.answer(answer))
	}
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("there is no %s %s", r.Method, r.URL.Path))
	})
	mux.HandleFunc("POST /api/read", s.readAgain)
	mux.HandleFunc("GET /api/flows", s.flows)
	return guard(s.token, mux)
}

// answer answers about what was last read.
func (s *Server) answer(by func(*moment, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m, err := s.world.current(r.Context())
		if err != nil {
			fail(w, http.StatusBadGateway, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		value, err := by(m, r)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		writeJSON(w, http.StatusOK, value)
	}
}

func (s *Server) readAgain(w http.ResponseWriter, r *http.Request) {
	since := 0
	if m, err := s.world.current(r.Context()); err == nil {
		since = m.reading
	}
	m, err := s.world.again(r.Context(), since)
	if err != nil {
		fail(w, http.StatusBadGateway, err)
		return
	}
	writeJSON(w, http.StatusOK, s.state(m))
}

// failure is what is answered in place of an answer.
type failure struct {
	Error string `json:"error"`
}

func fail(w http.ResponseWriter, code int, err error) { writeJSON(w, code, failure{err.Error()}) }

func writeJSON(w http.ResponseWriter, code int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n')) // whoever has asked may be gone
}
