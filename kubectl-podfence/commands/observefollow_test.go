package commands_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// following is a call of observe --follow.
type following struct {
	t         *testing.T
	out, said chan string
	code      chan int
	cancel    func()
}

func follow(t *testing.T, args ...string) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &following{t: t, out: make(chan string, 1000), said: make(chan string, 1000), code: make(chan int, 1), cancel: cancel}
	lines := func(to chan string) io.Writer {
		reader, writer := io.Pipe()
		t.Cleanup(func() { writer.Close() })
		go func() {
			var buffer bytes.Buffer
			chunk := make([]byte, 4096)
			for {
				n, err := reader.Read(chunk)
				buffer.Write(chunk[:n])
				for bytes.IndexByte(buffer.Bytes(), '\n') >= 0 {
					line, _ := buffer.ReadString('\n')
					to <- strings.TrimSpace(line)
				}
				if err != nil {
					return
				}
			}
		}()
		return writer
	}
	streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: lines(f.out), ErrOut: lines(f.said)}
	go func() {
		f.code <- commands.Main(ctx, "test", streams, append([]string{"observe", "-f", "--no-explain"}, args...))
	}()
	t.Cleanup(cancel)
	return f
}

// next is the next line, of those that are waited for.
func (f *following) next(from chan string, has string) {
	f.t.Helper()
	select {
	case line := <-from:
		if !strings.Contains(line, has) {
			f.t.Fatalf("it says %q, which has no %q", line, has)
		}
	case <-time.After(20 * time.Second):
		f.t.Fatalf("it does not say %q", has)
	}
}

// TestObserveFollows: flows of agents come in the order of time, though one of them tells later; what was missed
// while a stream was down comes when it is taken up again, and nothing twice.
func TestObserveFollows(t *testing.T) {
	utc(t)
	first := &flowAgent{more: make(chan *flows.Flow), seen: []*flows.Flow{denied(1*time.Second, nil)}}
	second := &flowAgent{more: make(chan *flows.Flow), seen: []*flows.Flow{denied(2*time.Second, nil)}}
	f := follow(t, first.start(t), second.start(t), "--agent=127.0.0.1:1")
	f.next(f.said, "connection refused")
	f.next(f.out, "12:00:01.000")
	f.next(f.out, "12:00:02.000")
	first.more <- denied(4*time.Second, nil)
	second.more <- denied(3*time.Second, nil)
	f.next(f.out, "12:00:03.000")
	f.next(f.out, "12:00:04.000")

	first.mu.Lock()
	first.seen = append(first.seen, denied(4*time.Second, nil), denied(5*time.Second, nil))
	ended := first.more
	first.more = make(chan *flows.Flow)
	first.mu.Unlock()
	close(ended)
	f.next(f.said, "has ended the stream")
	f.next(f.said, "answers again")
	f.next(f.out, "12:00:05.000")
	first.more <- denied(6*time.Second, nil)
	f.next(f.out, "12:00:06.000")
	if q := first.queries()[1]; !q.Since.Equal(noon.Add(4*time.Second)) || q.Last != flows.All || !slices.Equal(q.Verdicts, []flows.Verdict{flows.Denied, flows.WouldDeny, flows.WouldAllow}) {
		t.Errorf("the second time it was asked for %+v", q)
	}
	f.cancel()
	if code := <-f.code; code != 1 { // one does not answer
		t.Errorf("exit code %d", code)
	}
	select {
	case line := <-f.out:
		t.Errorf("it also says %s", line)
	default:
	}
}

// TestObserveWaitsForAll: what agents have kept is in the order of time, also if one of them takes long to answer.
func TestObserveWaitsForAll(t *testing.T) {
	utc(t)
	quick := &flowAgent{seen: []*flows.Flow{denied(2*time.Second, nil)}}
	slow := &flowAgent{seen: []*flows.Flow{denied(1*time.Second, nil)}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second) // longer than flows are held back
		slow.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	f := follow(t, quick.start(t), "--agent", server.Listener.Addr().String())
	f.next(f.out, "12:00:01.000")
	f.next(f.out, "12:00:02.000")
}

// TestObserveFollowsEnds: who ends it gets what is held back, and exit code 0.
func TestObserveFollowsEnds(t *testing.T) {
	a := &flowAgent{more: make(chan *flows.Flow)}
	f := follow(t, a.start(t))
	a.more <- denied(0, nil)
	f.next(f.out, "shop/web-7d9")
	f.cancel()
	if code := <-f.code; code != 0 {
		t.Errorf("exit code %d", code)
	}
}
