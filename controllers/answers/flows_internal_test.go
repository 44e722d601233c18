package answers

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// flowServer serves flows of a store over HTTP, with timeouts as short as a test can be.
func flowServer(t *testing.T, store *observer.Store) string {
	t.Helper()
	s := newServer(&fakeKernel{}, &fakeModel{})
	s.options.Flows = store
	server := httptest.NewUnstartedServer(s.Handler())
	server.Config.ReadTimeout, server.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

func observed(n int, change func(*flows.Flow)) *flows.Flow {
	f := &flows.Flow{Time: time.Unix(int64(n), 0), Verdict: flows.Denied, Text: fmt.Sprint(n), Protocol: "TCP"}
	if change != nil {
		change(f)
	}
	return f
}

// open asks for flows. The answer's body is closed when the test ends.
func open(t *testing.T, url, query string) *http.Response {
	t.Helper()
	response, err := http.Get(url + flows.Path + "?" + query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

// texts are those of the flows of an answer, and what was missed.
func texts(t *testing.T, body io.Reader, most int) (all []string) {
	t.Helper()
	for lines := bufio.NewScanner(body); len(all) < most && lines.Scan(); {
		f, missed, err := flows.ParseLine(lines.Bytes())
		switch {
		case err != nil:
			t.Fatal(err)
		case missed > 0:
			all = append(all, fmt.Sprintf("missed %d", missed))
		case f != nil:
			all = append(all, f.Text)
		}
	}
	return all
}

// TestKeptFlows: what is kept is told as it was asked for, and the answer ends.
func TestKeptFlows(t *testing.T) {
	store := observer.NewStore(6, nil)
	for n := 1; n <= 8; n++ { // 3 to 8 are kept
		store.Add(observed(n, func(f *flows.Flow) {
			f.Destination.Port = uint16(n % 2)
			if n == 8 {
				f.Verdict = flows.Allowed
			}
		}))
	}
	url := flowServer(t, store)
	for query, want := range map[string]string{
		"":                                    "3 4 5 6 7 8",
		"last=0":                              "",
		"last=2":                              "7 8",
		"last=100":                            "3 4 5 6 7 8",
		"verdict=denied":                      "3 4 5 6 7",
		"verdict=denied&last=2":               "6 7",
		"verdict=allowed":                     "8",
		"port=1&last=2":                       "5 7",
		"port=1&last=9":                       "3 5 7",
		"since=1970-01-01T00:00:06Z":          "6 7 8",
		"since=1970-01-01T00:00:04Z&last=2":   "7 8",
		"since=1970-01-01T00:00:06Z&last=100": "6 7 8",
		"since=5m":                            "",
	} {
		response := open(t, url, query)
		if got := strings.Join(texts(t, response.Body, 100), " "); got != want || response.StatusCode != 200 || response.Header.Get("Content-Type") != flows.MediaType {
			t.Errorf("%q: %s, %s: %q instead of %q", query, response.Status, response.Header.Get("Content-Type"), got, want)
		}
	}
}

// TestFollow: who follows gets what was asked for, and then each flow that is meant as it comes, long after the
// timeouts of requests.
func TestFollow(t *testing.T) {
	store := observer.NewStore(10, nil)
	store.Add(observed(1, nil))
	store.Add(observed(2, nil))
	response := open(t, flowServer(t, store), "follow=true&last=1&verdict=denied")
	lines := bufio.NewReader(response.Body)
	next := func() string {
		t.Helper()
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		f, _, err := flows.ParseLine([]byte(strings.TrimSpace(line)))
		if err != nil {
			t.Fatal(err)
		}
		return f.Text
	}
	if got := next(); got != "2" {
		t.Errorf("the first is %s", got)
	}
	for n := 3; n <= 5; n++ {
		time.Sleep(150 * time.Millisecond) // longer than the server's timeouts
		store.Add(observed(0, func(f *flows.Flow) { f.Verdict = flows.Allowed }))
		store.Add(observed(n, nil))
		if got, want := next(), fmt.Sprint(n); got != want {
			t.Errorf("the next is %s instead of %s", got, want)
		}
	}
}

// TestFollowersObserve: connections that pass are told of only while somebody follows who asks for them.
func TestFollowersObserve(t *testing.T) {
	told := make(chan bool, 10)
	store := observer.NewStore(10, func(on bool) { told <- on })
	url := flowServer(t, store)
	await := func(want bool, why string) {
		t.Helper()
		select {
		case on := <-told:
			if on != want {
				t.Errorf("%s: %t", why, on)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nothing", why)
		}
	}
	open(t, url, "follow=true&verdict=denied")
	open(t, url, "verdict=allowed")
	open(t, url, "follow=true&reason=rule")
	if len(told) > 0 {
		t.Error("allowed connections are told of, and nobody who follows asks for them")
	}
	first, second := open(t, url, "follow=true"), open(t, url, "follow=true&verdict=allowed")
	await(true, "the first")
	first.Body.Close()
	store.Add(observed(1, nil))
	time.Sleep(50 * time.Millisecond)
	if len(told) > 0 {
		t.Error("they are no more told of when one of two has gone")
	}
	second.Body.Close()
	await(false, "the last has gone")
}

// TestSlowReader: who does not read keeps nobody waiting who adds flows, is told how many were missed, and is
// dropped in the end.
func TestSlowReader(t *testing.T) {
	store := observer.NewStore(10, nil)
	url := flowServer(t, store)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil { // a flow that goes missing is not waited for
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s?follow=true&last=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", flows.Path)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 4<<10)
	begun := time.Now()
	const added = 20_000 // 80 MB, which no socket holds
	for n := range added {
		store.Add(observed(n, func(f *flows.Flow) { f.NearestMiss = large }))
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("adding took %s", took)
	}
	read, missed := 0, uint64(0)
	for lines := bufio.NewReader(response.Body); read+int(missed) < added; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d flows, %d missed: %v", read, missed, err)
		}
		f, m, err := flows.ParseLine([]byte(strings.TrimSpace(line)))
		if err != nil {
			t.Fatal(err)
		}
		if missed += m; f != nil {
			read++
		}
	}
	if missed == 0 || read == 0 || read+int(missed) != added {
		t.Errorf("%d were read and %d missed of %d", read, missed, added)
	}
}

// stuck is a connection whose other side takes nothing once it is full.
type stuck struct {
	*httptest.ResponseRecorder
	room  int
	write time.Time
}

func (s *stuck) SetWriteDeadline(at time.Time) error {
	s.write = at
	return nil
}

func (s *stuck) Write(text []byte) (int, error) {
	if s.room -= len(text); s.room < 0 {
		if s.write.IsZero() {
			select {}
		}
		time.Sleep(time.Until(s.write))
		return 0, os.ErrDeadlineExceeded
	}
	return s.ResponseRecorder.Write(text)
}

// TestStuckReader: who takes nothing loses the connection after a while, and makes room; who gets no flows gets
// empty lines instead.
func TestStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(&fakeKernel{}, &fakeModel{})
		s.options.Flows = observer.NewStore(10, nil)
		w := &stuck{ResponseRecorder: httptest.NewRecorder(), room: 10}
		began, ended := time.Now(), time.Time{}
		r := httptest.NewRequestWithContext(t.Context(), "GET", flows.Path+"?follow=true", nil)
		go func() {
			s.serveFlows(w, r)
			ended = time.Now()
		}()
		time.Sleep(5*keepAlive + time.Second)
		synctest.Wait()
		if got := w.Body.String(); got != "\n\n\n\n\n" || !w.Flushed {
			t.Errorf("without flows it got %q", got)
		}
		s.options.Flows.Add(observed(1, nil))
		time.Sleep(sendTimeout + time.Second)
		synctest.Wait()
		if ended.IsZero() || ended.Sub(began) > 6*keepAlive+sendTimeout || len(s.streaming) > 0 {
			t.Errorf("it ended after %s, with %d streams left", ended.Sub(began), len(s.streaming))
		}
	})
}

// TestManyStreams: no more than some may read at once, and one who goes makes room.
func TestManyStreams(t *testing.T) {
	url := flowServer(t, observer.NewStore(1, nil))
	var all []*http.Response
	for range streamsAtOnce {
		all = append(all, open(t, url, "follow=true"))
	}
	refused := open(t, url, "follow=true")
	var failure answers.Failure
	if err := json.NewDecoder(refused.Body).Decode(&failure); err != nil || refused.StatusCode != 429 || refused.Header.Get("Retry-After") == "" || failure.Reason != "TooManyRequests" {
		t.Errorf("one more: %s, %+v, %v", refused.Status, failure, err)
	}
	all[3].Body.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if open(t, url, "follow=true").StatusCode == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("one has gone, and there is no room")
		}
	}
}

// TestWhoMayNotReadFlows: what holds for other questions holds for flows.
func TestWhoMayNotReadFlows(t *testing.T) {
	s := newServer(&fakeKernel{}, &fakeModel{})
	refused := func(want int, why, method, query string, change func(*http.Request)) {
		t.Helper()
		w := ask(t, s, method, flows.Path+query, "", change)
		var failure answers.Failure
		if err := json.Unmarshal(w.Body.Bytes(), &failure); w.Code != want || err != nil || failure.Kind != "Failure" || failure.Message == "" {
			t.Errorf("%s: %d %s", why, w.Code, w.Body)
		}
	}
	refused(503, "no store", "GET", "", nil)
	s.options.Flows = observer.NewStore(1, nil)
	refused(400, "unknown parameter", "GET", "?pods=x", nil)
	refused(405, "POST", "POST", "", nil)
	refused(403, "from elsewhere", "GET", "", func(r *http.Request) { r.RemoteAddr = "10.0.0.1:1" })
	refused(403, "by another name", "GET", "", func(r *http.Request) { r.Host = "evil.example" })
	refused(403, "from a page", "GET", "", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") })
	if used := len(s.streaming); used != 0 {
		t.Errorf("%d streams are taken by who was refused", used)
	}
	all := []string{answers.StatusPath, answers.TracePath, flows.Path}
	if w := ask(t, s, "GET", "/", "", nil); slices.ContainsFunc(all, func(path string) bool { return !strings.Contains(w.Body.String(), path) }) {
		t.Errorf("what there is to ask: %s", w.Body)
	}
}
