package controllers_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/podfence/podfence/agent"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
)

var _ = Describe("After a broken watch", func() {
	It("what became of pods meanwhile is enforced, though each is seen only as it is now", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		w.policy("shop", "web", onlyClients)
		replaced, before := w.pod("shop", "replaced-0", set{"app": "client"})
		gone, goneObject := w.pod("shop", "gone", set{"app": "client"})
		pods := &breaker{}
		started := run(w.kernel, agent.Options{Node: w.node, API: pods.guard(agentUser)})
		started.awaitReady()
		w.eventually(ctx, arrive(replaced, web, 80), arrive(gone, web, 80))

		pods.interrupt()
		// One that comes, and is complete when it is first seen.
		late, _ := w.pod("shop", "late", set{"app": "client"})
		// One of a StatefulSet: another pod of the same name, at another address.
		remove(before)
		successor := w.host("shop/replaced-0 again")
		after := w.cluster.pod("shop", "replaced-0", set{"app": "client"})
		runsAt(after, successor.IPs...)
		Expect(after.UID).NotTo(Equal(before.UID))
		// One whose end nobody tells, and whose address is another's by then.
		remove(goneObject)
		runsAt(w.cluster.pod("shop", "heir", nil), gone.IPs...)
		w.always(ctx, lost(late, web, 80), lost(successor, web, 80), arrive(gone, web, 80))

		pods.resume()
		w.eventually(ctx, arrive(late, web, 80), arrive(successor, web, 80), lost(replaced, web, 80), lost(gone, web, 80))
	})
})

// breaker breaks an agent's watch of pods, and has it list them anew afterwards.
type breaker struct {
	mu      sync.Mutex
	broken  bool
	expired bool // what the watch had seen last is too old to go on from
	watches []io.Closer
}

// guard returns a configuration whose requests go through the breaker.
func (b *breaker) guard(config *rest.Config) *rest.Config {
	guarded := rest.CopyConfig(config)
	guarded.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if !strings.HasSuffix(request.URL.Path, "/pods") {
				return next.RoundTrip(request)
			}
			return b.roundTrip(next, request)
		})
	})
	return guarded
}

func (b *breaker) roundTrip(next http.RoundTripper, request *http.Request) (*http.Response, error) {
	b.mu.Lock()
	broken, expired := b.broken, b.expired
	b.expired = b.expired && broken
	b.mu.Unlock()
	switch {
	case broken:
		return nil, errors.New("the network is down")
	case expired:
		return &http.Response{
			Status: "410 Gone", StatusCode: http.StatusGone, Request: request,
			Header: http.Header{"Content-Type": {"application/json"}},
			Body:   io.NopCloser(strings.NewReader(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`)),
		}, nil
	}
	response, err := next.RoundTrip(request)
	if err == nil {
		b.mu.Lock()
		b.watches = append(b.watches, response.Body)
		b.mu.Unlock()
	}
	return response, err
}

// interrupt breaks the connection until resume.
func (b *breaker) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken, b.expired = true, true
	for _, watch := range b.watches {
		_ = watch.Close() // most have ended before
	}
	b.watches = nil
}

func (b *breaker) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = false
}
