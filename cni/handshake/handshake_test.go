package handshake_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/cni/handshake"
)

type handler = func(context.Context, handshake.Request) error

// serve runs a server until the test ends, and returns its socket and what
// stops it.
func serve(t *testing.T, h handler) (socket string, stop func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the server answers root alone: skipped")
	}
	socket = filepath.Join(t.TempDir(), "run", "agent.sock")
	l, err := handshake.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := handshake.Serve(ctx, l, h); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return socket, stop
}

func add() handshake.Request {
	return handshake.Request{
		Op: handshake.OpAdd, ContainerID: "c", IfName: "eth0",
		Pod: handshake.Pod{Namespace: "shop", Name: "web-0", UID: "u"},
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
		MAC: "02:00:00:00:00:01", HostInterface: "pf0", NetNS: "/run/netns/x",
	}
}

func call(t *testing.T, socket string, r handshake.Request) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return handshake.Call(ctx, socket, r)
}

func TestRequests(t *testing.T) {
	var got handshake.Request
	socket, _ := serve(t, func(_ context.Context, r handshake.Request) error {
		got = r
		return nil
	})
	for _, r := range []handshake.Request{
		add(),
		{Op: handshake.OpDel, ContainerID: "c", IfName: "eth0"},
		{Op: handshake.OpGC, Attachments: []handshake.Attachment{}},
		{Op: handshake.OpGC, Attachments: []handshake.Attachment{{ContainerID: "c", IfName: "eth0"}}},
		{Op: handshake.OpStatus},
	} {
		if err := call(t, socket, r); err != nil {
			t.Errorf("%s: %v", r.Op, err)
		}
		if got.TimeoutMillis < 1 || got.TimeoutMillis > 10_000 {
			t.Errorf("%s: it waits %d ms", r.Op, got.TimeoutMillis)
		}
		if r.Version, r.TimeoutMillis = handshake.Version, got.TimeoutMillis; !reflect.DeepEqual(got, r) {
			t.Errorf("got %+v, want %+v", got, r)
		}
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v: %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(socket)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v: %v", info.Mode(), err)
	}
}

func TestRefusals(t *testing.T) {
	socket, _ := serve(t, func(_ context.Context, r handshake.Request) error {
		return errors.New(strings.Repeat(r.ContainerID+"\n", 30000))
	})
	r := add()
	r.ContainerID = "no"
	if err := call(t, socket, r); !errors.Is(err, handshake.ErrRefused) || !strings.Contains(err.Error(), "no") {
		t.Errorf("refused: %.100v", err)
	}
}

// TestInvalid has requests that neither side takes.
func TestInvalid(t *testing.T) {
	socket, _ := serve(t, func(context.Context, handshake.Request) error {
		t.Error("handled")
		return nil
	})
	for _, change := range []func(*handshake.Request){
		func(r *handshake.Request) { r.Op = "dance" },
		func(r *handshake.Request) { r.Op = handshake.OpGC },
		func(r *handshake.Request) { r.ContainerID = "" },
		func(r *handshake.Request) { r.IfName = "" },
		func(r *handshake.Request) { r.Pod.Name = "" },
		func(r *handshake.Request) { r.Pod.Namespace = "" },
		func(r *handshake.Request) { r.IPs = nil },
		func(r *handshake.Request) { r.IPs = []netip.Addr{{}} },
		func(r *handshake.Request) { r.IPs = []netip.Addr{netip.MustParseAddr("ff02::1")} },
		func(r *handshake.Request) { r.IPs = []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.2")} },
		func(r *handshake.Request) { r.IPs = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} },
		func(r *handshake.Request) { r.IPs = []netip.Addr{netip.IPv4Unspecified()} },
		func(r *handshake.Request) { r.MAC = "02:00" },
		func(r *handshake.Request) { r.Mode = "none" },
	} {
		r := add()
		change(&r)
		if err := call(t, socket, r); err == nil || errors.Is(err, handshake.ErrRefused) || errors.Is(err, handshake.ErrNoAnswer) {
			t.Errorf("%+v: %v", r, err)
		}
		r.Version = handshake.Version
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if answer := say(t, socket, string(line)+"\n"); !strings.Contains(answer.Error, "invalid request") {
			t.Errorf("%s: %+v", line, answer)
		}
	}
	long := add()
	long.Pod.Name = strings.Repeat("x", handshake.MaxSize)
	if err := call(t, socket, long); err == nil || !strings.Contains(err.Error(), "octets") {
		t.Errorf("too long: %.200v", err)
	}
}

func TestNoAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	if err := call(t, socket, add()); !errors.Is(err, handshake.ErrNoAnswer) || !strings.Contains(err.Error(), "kubelet tries again") {
		t.Errorf("nobody: %v", err)
	}
	for name, answer := range map[string]string{"hangs up": "", "half": `{"version":1`, "no JSON": "yes\n", "endless": strings.Repeat("x", handshake.MaxSize)} {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, answer)
			c.Close()
		}()
		if err := call(t, socket, add()); !errors.Is(err, handshake.ErrNoAnswer) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, `{"version":3,"error":"I speak 3"}`+"\n")
	}()
	if err := call(t, socket, add()); !errors.Is(err, handshake.ErrRefused) || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("another version: %v", err)
	}
}

// TestTimeout has a handler that is too slow: the client hears why, before its patience
// ends.
func TestTimeout(t *testing.T) {
	socket, _ := serve(t, func(ctx context.Context, _ handshake.Request) error {
		<-ctx.Done()
		return errors.New("pod shop/web-0 is not known yet")
	})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err := handshake.Call(ctx, socket, add())
	if !errors.Is(err, handshake.ErrRefused) || !strings.Contains(err.Error(), "shop/web-0 is not known yet") {
		t.Errorf("too slow: %v", err)
	}
	line, err := json.Marshal(map[string]any{"version": handshake.Version, "op": "status", "timeoutMillis": -1})
	if err != nil {
		t.Fatal(err)
	}
	if answer := say(t, socket, string(line)+"\n"); !strings.Contains(answer.Error, "timeout of -1 ms") {
		t.Errorf("a timeout below zero: %+v", answer)
	}
}

// TestClientLeaves has a client that hangs up before its patience ends, and a handler
// that sees it.
func TestClientLeaves(t *testing.T) {
	began, left := make(chan struct{}), make(chan struct{})
	socket, _ := serve(t, func(ctx context.Context, _ handshake.Request) error {
		close(began)
		<-ctx.Done()
		close(left)
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-began; cancel() }()
	if err := handshake.Call(ctx, socket, add()); !errors.Is(err, handshake.ErrNoAnswer) || !errors.Is(err, context.Canceled) {
		t.Errorf("a client that hangs up: %v", err)
	}
	select {
	case <-left:
	case <-time.After(time.Minute):
		t.Error("the handler was not told")
	}
}

// TestStop stops a server in the middle of a call: the client gets an answer or
// none, and the handler sees the end.
func TestStop(t *testing.T) {
	started := make(chan struct{})
	socket, stop := serve(t, func(ctx context.Context, _ handshake.Request) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	})
	result := make(chan error)
	go func() { result <- call(t, socket, add()) }()
	<-started
	stop()
	if err := <-result; err == nil {
		t.Error("the call succeeded")
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there: %v", err)
	}
	if err := call(t, socket, add()); !errors.Is(err, handshake.ErrNoAnswer) {
		t.Errorf("after the stop: %v", err)
	}
}
