package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/podfence/podfence/explain"
)

// change is what POST api/whatif is asked about.
type change struct {
	// Apply is YAML, of any number of documents, and Delete what is taken away.
	Apply  string           `json:"apply"`
	Delete []explain.Object `json:"delete"`
}

// changed is what it answers.
type changed struct {
	Diff *explain.Diff `json:"diff"`
	// Text is what kubectl podfence diff prints.
	Text string `json:"text"`
}

// whatIf says what a change would open and close. Nothing is written anywhere.
func (s *Server) whatIf(m *moment, r *http.Request) (any, error) {
	var c change
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		return nil, fmt.Errorf("reading the change: %w", err)
	}
	into := &explain.Cluster{}
	if strings.TrimSpace(c.Apply) != "" {
		var err error
		if into, err = s.backend.Change([]byte(c.Apply), m.Cluster); err != nil {
			return nil, err
		}
	}
	after, err := explain.Apply(m.Cluster, into, c.Delete...)
	if err != nil {
		return nil, err
	}
	d := m.Compare(after)
	var text strings.Builder
	if err := d.WriteText(&text, explain.Plain); err != nil {
		return nil, err
	}
	return changed{d, text.String()}, nil
}
