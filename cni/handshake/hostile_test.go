package handshake_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/handshake"
)

// say sends text and reads the answer.
func say(t *testing.T, socket, text string) (answer handshake.Response) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(8 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// A server that has read enough hangs up before the end.
	_, _ = io.WriteString(c, text)
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil && len(line) == 0 {
		return handshake.Response{Error: "hung up: " + err.Error()}
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		t.Errorf("answer %q: %v", line, err)
	}
	return answer
}

func TestGarbage(t *testing.T) {
	socket, _ := serve(t, func(context.Context, handshake.Request) error { return nil })
	for text, message := range map[string]string{
		"\n":                              "no JSON",
		"GET / HTTP/1.1\r\n\r\n":          "no JSON",
		"\x00\xff\xfe\n":                  "no JSON",
		"[1,2]\n":                         "no JSON",
		`{"version":1,"op":7}` + "\n":     "no JSON",
		`{}` + "\n":                       "version 0 of the protocol is not known, this agent speaks 1",
		`{"version":2,"op":{}}` + "\n":    "version 2 of the protocol is not known, this agent speaks 1",
		`{"version":1}` + "\n":            "unknown operation",
		strings.Repeat("x", 1<<20):        "",
		`{"version":1,"op":"status"}    `: "", // no newline: nobody knows whether that was all
	} {
		if len(text) > 30 {
			// These hang up themselves or are hung up on.
			c, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(c, text)
			c.Close()
			continue
		}
		answer := say(t, socket, text)
		if answer.Version != handshake.Version || !strings.Contains(answer.Error, message) {
			t.Errorf("%.40q: %+v", text, answer)
		}
	}
	// An exact line of the largest size is read; one octet more is not.
	fits := `{"version":1,"op":"status","x":"` + strings.Repeat("x", handshake.MaxSize)
	fits = fits[:handshake.MaxSize-3] + "\"}\n"
	if answer := say(t, socket, fits); answer.Error != "" {
		t.Errorf("largest: %+v", answer)
	}
	if answer := say(t, socket, " "+fits); !strings.Contains(answer.Error, fmt.Sprintf("more than %d octets", handshake.MaxSize)) {
		t.Errorf("too large: %+v", answer)
	}
	if err := call(t, socket, add()); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestIdle has a client that says nothing while others are served.
func TestIdle(t *testing.T) {
	socket, stop := serve(t, func(context.Context, handshake.Request) error { return nil })
	for range 20 {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, `{"version":1,`)
	}
	if err := call(t, socket, add()); err != nil {
		t.Error(err)
	}
	start := time.Now()
	if stop(); time.Since(start) > time.Second {
		t.Errorf("stopping took %v", time.Since(start))
	}
}

func TestManyCalls(t *testing.T) {
	const count = 600
	var running, most atomic.Int32
	socket, _ := serve(t, func(context.Context, handshake.Request) error {
		now := running.Add(1)
		defer running.Add(-1)
		for {
			old := most.Load()
			if now <= old || most.CompareAndSwap(old, now) {
				break
			}
		}
		time.Sleep(20 * time.Millisecond)
		return nil
	})
	var wait sync.WaitGroup
	for i := range count {
		wait.Go(func() {
			r := add()
			r.ContainerID = fmt.Sprint(i)
			if err := call(t, socket, r); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wait.Wait()
	if n := most.Load(); n > 256 {
		t.Errorf("%d at once", n)
	}
}

func TestOnlyRoot(t *testing.T) {
	socket, _ := serve(t, func(context.Context, handshake.Request) error {
		t.Error("handled")
		return nil
	})
	for _, path := range []string{socket, filepath.Dir(socket), filepath.Dir(filepath.Dir(socket)), filepath.Dir(filepath.Dir(filepath.Dir(socket)))} {
		// Whoever gets at the socket in spite of its mode is asked who it is.
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := -1, error(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		// For this thread alone, which is not what the library's Setuid does.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			err = errno
			return
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	}()
	<-done
	defer unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	// The server may have answered, and hung up, before it was asked anything.
	_, _ = unix.Write(fd, []byte(`{"version":1,"op":"status"}`+"\n"))
	answer := make([]byte, 1024)
	n, err := unix.Read(fd, answer)
	if err != nil || !strings.Contains(string(answer[:n]), "only root may ask, not user 65534") {
		t.Errorf("answer %q: %v", answer[:max(n, 0)], err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "agent.sock")
	l, err := handshake.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := handshake.Listen(path); !errors.Is(err, handshake.ErrInUse) {
		t.Errorf("twice: %v", err)
	}
	// What a killed agent leaves.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = handshake.Listen(path); err != nil {
		t.Fatalf("on a stale socket: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after closing: %v", err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := handshake.Listen(path); err == nil {
		t.Error("a file made way")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("the file is %q: %v", text, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// Of many at once, one gets it, whatever was there.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	var got atomic.Int32
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			l, err := handshake.Listen(path)
			if err == nil {
				got.Add(1)
				t.Cleanup(func() { l.Close() })
			} else if !errors.Is(err, handshake.ErrInUse) {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if got.Load() != 1 {
		t.Errorf("%d got it", got.Load())
	}
}

// TestFlood has thousands of clients that send garbage, too much, or half a
// request, and hundreds that say nothing: others are served all the same, as
// soon as the silent have been hung up on, and memory stays what the connections
// served at once may take.
func TestFlood(t *testing.T) {
	t.Parallel() // the silent take it some seconds
	socket, _ := serve(t, func(context.Context, handshake.Request) error { return nil })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 300 { // more than are served at once
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	texts := []string{
		"", "\n", "x", `{"version":1,"op":"add"`, `{"version":1,"op":"del","containerID":"` + strings.Repeat("../", 1000) + `","ifName":"e"}` + "\n",
		strings.Repeat("x", 2*handshake.MaxSize), strings.Repeat("[", 60_000) + "\n", `{"version":1,"op":"gc","attachments":[` + strings.Repeat("{},", 20_000) + "{}]}\n",
	}
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			for j := range 125 {
				c, err := net.Dial("unix", socket)
				if err != nil {
					continue // the backlog is full
				}
				_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
				_, _ = io.WriteString(c, texts[(i+j)%len(texts)])
				c.Close()
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := handshake.Call(ctx, socket, add()); err != nil {
		t.Errorf("in the flood: %v", err)
	}
	wait.Wait()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 200<<20 {
		t.Errorf("the heap has grown by %d MB", grown>>20)
	}
	if err := handshake.Call(ctx, socket, add()); err != nil {
		t.Errorf("after the flood: %v", err)
	}
}
