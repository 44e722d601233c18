package connectivity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// maxName is how many octets of a server's name a client reads.
const maxName = 256

// answerWithin is how long a server takes to be rid of its answer, and a client to read it.
const answerWithin = 5 * time.Second

// Serve listens on all the TCP addresses (such as ":8080") until ctx is done, and answers each connection
// with the name and a line feed. It returns nil when ctx is done, and an error that names the address
// if it cannot listen there or listens no more. On out it says what it listens on.
func Serve(ctx context.Context, addresses []string, name string, out io.Writer) error {
	if len(name) > maxName {
		return fmt.Errorf("the name %.20q… has %d octets: a client reads %d", name, len(name), maxName)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(addresses))
	for _, address := range addresses {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
		defer listener.Close()
		fmt.Fprintf(out, "listening on %s\n", listener.Addr())
		go func() { ended <- answer(listener, name) }()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
			return nil
		}
		return err
	}
}

// answer answers connections one after another until the listener is closed.
func answer(listener net.Listener, name string) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(answerWithin))
		_, _ = fmt.Fprintln(conn, name) // a client that has gone needs no answer
		_ = conn.Close()
	}
}
