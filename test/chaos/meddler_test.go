package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/test/apiserver"
	"github.com/podfence/podfence/test/check"
)

// meddler is a proxy of an API server that meddles with watches. All is JSON, an event
// a line.
type meddler struct {
	kubeconfig []byte
	target     *url.URL
	transport  http.RoundTripper
	others     *httputil.ReverseProxy

	mu   sync.Mutex
	open map[*stream]struct{}
	// deaf: watches that are asked for now get bookmarks only.
	deaf bool
	// seen is the newest version read for a path, and forgotten the one before
	// which it cannot be watched any more.
	seen, forgotten map[string]uint64
	meddled
}

// meddled is what has been done: events that watches did not get, watches that were
// refused or ended by 410, or in the middle of an event.
type meddled struct{ kept, expired, torn int }

// stream is a watch under way.
type stream struct {
	path string
	deaf atomic.Bool // for good: it will have to be begun again
	end  chan ending
}

// ending is how a watch ends.
type ending int

const (
	gone    ending = iota // by an event of type ERROR: 410
	torn                  // in the middle of the next event
	quietly               // as when its time is over
)

func newMeddler(t *testing.T, config *rest.Config) *meddler {
	t.Helper()
	m := &meddler{open: map[*stream]struct{}{}, seen: map[string]uint64{}, forgotten: map[string]uint64{}}
	var err error
	m.target, err = url.Parse(config.Host)
	check.NoError(t, err)
	m.transport, err = rest.TransportFor(config)
	check.NoError(t, err)
	m.others = httputil.NewSingleHostReverseProxy(m.target)
	m.others.Transport = m.transport
	m.kubeconfig = apiserver.Serve(t, m)
	return m
}

// ServeHTTP implements http.Handler.
func (m *meddler) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	request.Header.Set("Accept", "application/json")
	request.Header.Del("Accept-Encoding")
	query := request.URL.Query()
	if watches := query.Get("watch"); watches != "true" && watches != "1" {
		m.others.ServeHTTP(w, request)
		return
	}
	if version := versionOf(query.Get("resourceVersion")); query.Get("sendInitialEvents") == "" && m.refuses(request.URL.Path, version) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusGone)
		_, _ = w.Write(expiredStatus)
		return
	}
	if err := m.watch(w, request); err != nil && request.Context().Err() == nil {
		panic(http.ErrAbortHandler) // the connection is cut
	}
}

// expiredStatus is what an API server says of a version that it has forgotten.
var expiredStatus = []byte(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}`)

// watch passes a watch on, event by event.
func (m *meddler) watch(w http.ResponseWriter, request *http.Request) error {
	out := request.Clone(request.Context())
	out.URL.Scheme, out.URL.Host, out.Host, out.RequestURI = m.target.Scheme, m.target.Host, "", ""
	response, err := m.transport.RoundTrip(out)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
	w.WriteHeader(response.StatusCode)
	flusher := w.(http.Flusher)
	flusher.Flush()
	s := m.begin(request.URL.Path)
	defer m.ended(s)
	lines, failed := make(chan []byte), make(chan error, 1)
	go func() {
		for reader := bufio.NewReader(response.Body); ; {
			line, err := reader.ReadBytes('\n')
			if err != nil {
				failed <- err
				return
			}
			select {
			case lines <- line:
			case <-request.Context().Done():
				failed <- request.Context().Err()
				return
			}
		}
	}()
	version, tear := versionOf(request.URL.Query().Get("resourceVersion")), false
	bookmark := time.NewTicker(100 * time.Millisecond)
	defer bookmark.Stop()
	var last event
	for {
		select {
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case end := <-s.end:
			switch end {
			case gone:
				m.did(&m.expired)
				_, err := fmt.Fprintf(w, `{"type":"ERROR","object":%s}`+"\n", expiredStatus)
				flusher.Flush()
				return err
			case quietly:
				return nil
			}
			tear = true
		case <-bookmark.C:
			if !s.deaf.Load() || last.Object.Kind == "" {
				continue
			}
			_, err := fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d"}}}`+"\n", last.Object.Kind, last.Object.APIVersion, version)
			flusher.Flush()
			if err != nil {
				return err
			}
		case line := <-lines:
			var e event
			if err := json.Unmarshal(line, &e); err != nil {
				return err
			}
			if m.keeps(s, e) {
				continue
			}
			if tear {
				m.did(&m.torn)
				_, _ = w.Write(line[:len(line)/2])
				flusher.Flush()
				return errors.New("torn")
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
			flusher.Flush()
			last, version = e, max(version, versionOf(e.Object.Metadata.ResourceVersion))
		}
	}
}

// event is what is looked at of one.
type event struct {
	Type   string
	Object struct {
		Kind, APIVersion string
		Metadata         struct{ ResourceVersion string }
	}
}

// versionOf is a resource version as a number; those that are none are 0.
func versionOf(text string) uint64 {
	version, _ := strconv.ParseUint(text, 10, 64)
	return version
}

func (m *meddler) begin(path string) *stream {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &stream{path: path, end: make(chan ending, 1)}
	s.deaf.Store(m.deaf)
	m.open[s] = struct{}{}
	return s
}

func (m *meddler) ended(s *stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, s)
}

// keeps says whether an event is kept from the agent.
func (m *meddler) keeps(s *stream, e event) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[s.path] = max(m.seen[s.path], versionOf(e.Object.Metadata.ResourceVersion))
	if !s.deaf.Load() {
		return false
	}
	m.kept++
	return true
}

// refuses says whether a version is too old to watch from.
func (m *meddler) refuses(path string, version uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if version >= m.forgotten[path] {
		return false
	}
	m.expired++
	return true
}

// deafen keeps all events from the watches that are open, and from those that come,
// until hear.
func (m *meddler) deafen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf = true
	for s := range m.open {
		s.deaf.Store(true)
	}
}

// hear lets watches that come have all events.
func (m *meddler) hear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf = false
}

// forget has no watch begin before the newest version.
func (m *meddler) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, version := range m.seen {
		m.forgotten[path] = version
	}
}

// end ends the watches that are open.
func (m *meddler) end(how ending) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.open {
		select {
		case s.end <- how:
		default:
		}
	}
}

// did counts something.
func (m *meddler) did(what *int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*what++
}

// done is what has been done until now.
func (m *meddler) done() meddled {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meddled
}
