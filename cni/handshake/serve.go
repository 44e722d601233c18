package handshake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConnections is how many connections are served at once; more wait in the socket's
	// backlog. A node rarely starts more pods than that at once.
	maxConnections = 256
	// exchangeTimeout is how long a client may take to say what it wants, and to take
	// the answer. The plugin needs microseconds.
	exchangeTimeout = 5 * time.Second
	// maxError is up to how many octets of an error an answer has: more than an Event has
	// room for.
	maxError = 8 << 10
)

// Serve answers requests by what handle returns, each on a goroutine of its
// own, until the context ends. It then takes no more connections, lets the
// handlers that run see the end of their contexts, waits for them, closes the
// listener and returns nil. It returns an error if the listener fails.
//
// Handle gets only requests that are complete, of this version and from root. Its
// context ends shortly before the client stops waiting, if the client has said how
// long it waits: handle then returns why it is not done.
// The text of its error goes to the plugin, and from there to kubelet and into
// an Event on the pod. The context also ends when the client hangs up: a plugin
// that has waited too long asks for a del at once, which may reach the handler
// before the add has returned. The handler keeps the order for each attachment.
func Serve(ctx context.Context, listener net.Listener, handle func(context.Context, Request) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	slots := make(chan struct{}, maxConnections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if exhausted(err) {
				// Other connections will give back their file descriptors.
				<-slots
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			return fmt.Errorf("accept on %s: %w", listener.Addr(), errors.Join(err, listener.Close()))
		}
		wait.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			answer(ctx, conn, handle)
		})
	}
}

// exhausted says whether accepting failed for a reason that may soon be over; see
// accept(2).
func exhausted(err error) bool {
	for _, errno := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// answer serves one connection. If a client can't be answered, that is not reported: the
// client has gone, and reports it itself.
func answer(ctx context.Context, conn net.Conn, handle func(context.Context, Request) error) {
	if conn.SetDeadline(time.Now().Add(exchangeTimeout)) != nil {
		return
	}
	// A server that stops must not wait for a client that says nothing.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	response := Response{Version: Version}
	if err := serve(ctx, conn, handle); err != nil {
		text := err.Error()
		response.Error = text[:min(len(text), maxError)]
	}
	line, err := json.Marshal(response)
	if err != nil || conn.SetWriteDeadline(time.Now().Add(exchangeTimeout)) != nil {
		return
	}
	_, _ = conn.Write(append(line, '\n'))
}

// serve reads a request and has it handled.
func serve(ctx context.Context, conn net.Conn, handle func(context.Context, Request) error) error {
	if err := checkPeer(conn); err != nil {
		return err
	}
	line, err := readLine(conn)
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	r, err := decode(line)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, handleWithin(r))
	defer cancel()
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	readerDone := make(chan struct{})
	go func() {
		defer close(readerDone)
		// The client has nothing more to say. What can still be read is that it hung up, or
		// noise, which is read to its end.
		buffer := make([]byte, 64)
		for {
			if _, err := conn.Read(buffer); err != nil {
				cancel()
				return
			}
		}
	}()
	err = handle(ctx, r)
	// Wake the reader: nobody may use the connection after this function.
	if deadlineErr := conn.SetReadDeadline(time.Unix(1, 0)); deadlineErr != nil {
		conn.Close()
	}
	<-readerDone
	return err
}

// handleWithin is how long a request may be handled. A tenth of the client's time, or half a
// second, is left for the answer.
func handleWithin(r Request) time.Duration {
	if r.TimeoutMillis == 0 {
		return maxTimeout
	}
	timeout := time.Duration(r.TimeoutMillis) * time.Millisecond
	return timeout - min(timeout/10, 500*time.Millisecond)
}

// checkPeer asks the kernel who has connected.
func checkPeer(conn net.Conn) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("who has connected: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("only root may ask, not user %d", cred.Uid)
	}
	return nil
}
