package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// reasonTimeout is how long a failure waits for the node to say why.
const reasonTimeout = time.Second

// forward opens a way to a port of a pod's loopback address: by WebSocket, and where the API server, or a proxy
// before it, does not take that, by SPDY, as kubectl does.
//
// It takes the streams of the connection themselves. client-go's PortForwarder would listen on a port of this
// machine, which everybody on it could use, and only log what the node says.
func forward(ctx context.Context, config *rest.Config, to *url.URL, port int) (way, error) {
	dialer, err := newDialer(config, to)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, dialer)
	if err != nil {
		return nil, err
	}
	f, err := newForwarded(conn, port)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return f, nil
}

func newDialer(config *rest.Config, to *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, fmt.Errorf("setting up a port-forward: %w", err)
	}
	first, err := portforward.NewSPDYOverWebsocketDialerForStreaming(to, config)
	if err != nil {
		return nil, fmt.Errorf("setting up a port-forward: %w", err)
	}
	second := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, to)
	return portforward.NewFallbackDialerForStreaming(first, second, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// dial connects, but no longer than until ctx is done, of which dialers know nothing.
func dial(ctx context.Context, dialer httpstream.Dialer) (httpstream.Connection, error) {
	type result struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		if err == nil && protocol != portforward.PortForwardProtocolV1Name {
			err = errors.Join(fmt.Errorf("the API server speaks %q instead of %s", protocol, portforward.PortForwardProtocolV1Name), conn.Close())
		}
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("port-forward: %w", r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// forwarded is a way by port-forward.
type forwarded struct {
	io.ReadWriter
	conn httpstream.Connection
	port int
	// said gets what the node says of a failure, or nothing, and is closed then.
	said chan string
}

// newForwarded asks for a port over a connection: by one stream for what the node says, and one for the data.
func newForwarded(conn httpstream.Connection, port int) (*forwarded, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	failures, err := conn.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("port-forward: %w", err)
	}
	if err := failures.Close(); err != nil { // nothing is sent over it
		return nil, fmt.Errorf("port-forward: %w", err)
	}
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("port-forward: %w", err)
	}
	f := &forwarded{ReadWriter: data, conn: conn, port: port, said: make(chan string, 1)}
	go func() {
		defer close(f.said)
		if text, err := io.ReadAll(io.LimitReader(failures, 4096)); err == nil && len(text) > 0 {
			f.said <- string(text)
		}
	}()
	return f, nil
}

// Close ends the connection.
func (f *forwarded) Close() error { return f.conn.Close() }

func (f *forwarded) reason() error {
	select {
	case text := <-f.said:
		if text == "" {
			return nil
		}
		if strings.Contains(text, "connection refused") {
			return fmt.Errorf("nobody answers on port %d of its node's loopback address: the agent is of an older version than this plugin, or is starting", f.port)
		}
		return errors.New(firstLine([]byte(text)))
	case <-time.After(reasonTimeout):
		return nil
	}
}
