package announcements

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podfence/podfence/api/v1alpha1"
)

// TestTrust: whether announcements are on is told when it changes, and only then; an API server that
// does not answer changes nothing.
func TestTrust(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newServer()
		s.fails = errors.New("connection refused")
		var told []bool
		trust := NewTrust("node-1", s, func(_ context.Context, on bool) error { told = append(told, on); return nil }, logr.Discard())
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = trust.Start(ctx) })
		defer running.Wait()
		defer cancel()
		expect := func(what string, after time.Duration, want ...bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if len(told) != len(want) || len(want) > 0 && told[len(told)-1] != want[len(want)-1] {
				t.Errorf("%s: told %v, want %v", what, told, want)
			}
		}
		expect("the API server does not answer", time.Hour)
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if err := trust.Await(short); err == nil || errors.Is(err, ErrOff) {
			t.Errorf("not known yet: %v", err)
		}
		s.set(func(s *server) { s.fails = nil })
		expect("it refuses lies", 2*lastRetry, true)
		expect("it still does", time.Hour, true)
		s.set(func(s *server) { s.believes = true })
		expect("its admission policy is gone", 2*lookWhileOn, true, false)
		if err := trust.Await(ctx); !errors.Is(err, ErrOff) {
			t.Errorf("%v", err)
		}
		s.set(func(s *server) { s.fails = errors.New("connection refused") })
		expect("it does not answer", time.Hour, true, false)
		s.set(func(s *server) { s.fails, s.believes = nil, false })
		expect("its admission policy is back", 2*lookWhileOff, true, false, true)
	})
}

// TestTrustSays: what is missing in the cluster is said.
func TestTrustSays(t *testing.T) {
	resource := v1alpha1.GroupVersion.WithResource("podaddresses").GroupResource()
	for name, c := range map[string]struct {
		change func(*server)
		says   string
	}{
		"no PodAddresses":     {func(s *server) { s.fails = apierrors.NewNotFound(resource, "") }, "config/crd"},
		"no admission policy": {func(s *server) { s.believes = true }, "config/admission"},
		"token of no node":    {func(s *server) { s.fails = apierrors.NewForbidden(resource, "node-1", errors.New("by no token")) }, "1.30"},
	} {
		s := newServer()
		c.change(s)
		err := NewTrust("node-1", s, nil, logr.Discard()).look(t.Context())
		if !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newServer()
	if err := NewTrust("node-1", s, nil, logr.Discard()).look(t.Context()); err != nil {
		t.Errorf("all is there: %v", err)
	}
}
