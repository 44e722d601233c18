package ui

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/podfence/podfence/api/flows"
)

// alive is how often an empty line is sent while there is nothing else, so that whoever has gone is noticed.
const alive = 15 * time.Second

// told is a line of GET api/flows.
type told struct {
	Flow *flows.Flow `json:"flow,omitempty"`
	// Note is about an agent, such as that it does not answer.
	Note string `json:"note,omitempty"`
}

// flows is GET api/flows: the parameters of flows.Query; it follows for as long as whoever asks is there.
func (s *Server) flows(w http.ResponseWriter, r *http.Request) {
	if s.backend.Observe == nil {
		fail(w, http.StatusNotFound, errors.New(s.backend.NoFlows))
		return
	}
	values := r.URL.Query()
	if !values.Has("last") {
		values.Set("last", "100")
	}
	query, err := flows.ParseQuery(values, time.Now())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	query.Follow = true
	w.Header().Set("Content-Type", flows.MediaType)
	out := &lineWriter{to: http.NewResponseController(w), w: w}
	if err := out.write(nil); err != nil { // so that the page knows that it was heard
		return
	}
	done := make(chan struct{})
	defer close(done)
	go out.keepAlive(done)
	err = s.backend.Observe(r.Context(), query,
		func(f *flows.Flow) error { return out.write(&told{Flow: f}) },
		func(text string) { _ = out.write(&told{Note: text}) })
	if err != nil && r.Context().Err() == nil {
		_ = out.write(&told{Note: err.Error()}) // it may be gone
	}
}

// lineWriter writes lines of JSON, each at once.
type lineWriter struct {
	mu sync.Mutex
	to *http.ResponseController
	w  http.ResponseWriter
}

func (l *lineWriter) write(t *told) error {
	var line []byte
	if t != nil {
		var err error
		if line, err = json.Marshal(t); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return l.to.Flush()
}

// keepAlive sends an empty line now and then until done.
func (l *lineWriter) keepAlive(done <-chan struct{}) {
	ticker := time.NewTicker(alive)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			if l.write(nil) != nil {
				return
			}
		}
	}
}
