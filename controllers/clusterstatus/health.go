package clusterstatus

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// health says whether this program can do its work. One that waits for the Lease can: it has none.
type health struct {
	mu              sync.Mutex
	unasked, unread error
}

// asked notes why the API server could not be asked whether it has the kind; nil: it was asked.
func (h *health) asked(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unasked = err
}

// read notes why the policies are not known; nil: they are.
func (h *health) read(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unread = err
}

// err is why it cannot do its work; nil: it can.
func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.unasked, h.unread)
}

// ServeHTTP answers /readyz.
func (h *health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if err := h.err(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "ok")
}

// server answers /healthz, while the process lives, and /readyz. controller-runtime's own would
// withhold the reason.
func (h *health) server(address string) manager.Runnable {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/readyz", h)
	return &manager.Server{Name: "health", Server: &http.Server{
		Addr: address, Handler: mux, MaxHeaderBytes: 1 << 20, IdleTimeout: 90 * time.Second, ReadHeaderTimeout: 30 * time.Second,
	}}
}
