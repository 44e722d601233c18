package ui

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/podfence/podfence/explain"
)

// drawMap is GET api/map: ?open=NAMESPACE (repeatable), ?port=5432/TCP, ?unfenced=1, ?focus=ID.
func drawMap(m *moment, r *http.Request) (any, error) {
	values := r.URL.Query()
	q := explain.MapQuery{Open: values["open"], Unfenced: values.Get("unfenced") == "1", Focus: values.Get("focus")}
	if text := values.Get("port"); text != "" {
		port, err := explain.ParsePort(text)
		if err != nil {
			return nil, err
		}
		q.Port = port
	}
	drawn, err := m.atlas.Map(q)
	if err != nil {
		return nil, err
	}
	return struct {
		Generation int `json:"generation"`
		*explain.Map
	}{m.generation, drawn}, nil
}

// matrix is GET api/matrix: ?namespace=NAME, or all.
func matrix(m *moment, r *http.Request) (any, error) {
	return m.Explainer.Matrix(r.URL.Query().Get("namespace"))
}

// reach is GET api/reach: ?target=WHAT, a target or what a map calls a node.
func reach(m *moment, r *http.Request) (any, error) {
	text := r.URL.Query().Get("target")
	if text == "" {
		return nil, errors.New("say whom it is about by target, such as deploy/shop/web")
	}
	target, is := m.atlas.Ask(text)
	if !is {
		var err error
		if target, err = explain.ParseTarget(text, "default"); err != nil {
			return nil, fmt.Errorf("target: %w", err)
		}
	}
	return m.atlas.Reach(target)
}
