package handshake

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoAnswer says that nobody listens on the socket, or that no answer
	// came in time. Whether the agent has done, or will do, what was asked is
	// not known.
	ErrNoAnswer = errors.New("the podfence agent does not answer")

	// ErrRefused says that the agent has answered, and why it did not do what
	// was asked.
	ErrRefused = errors.New("the podfence agent refused")
)

// Call asks the agent that listens on a socket to do what the request says, and
// waits until it has, or until the context ends. A context without a deadline
// may wait for ever.
//
// It returns an error that is ErrNoAnswer or ErrRefused, or another one if the
// request can't be sent as it is. It may be called concurrently.
func Call(ctx context.Context, socket string, r Request) error {
	r.Version = Version
	if deadline, has := ctx.Deadline(); has {
		remaining := min(time.Until(deadline), maxTimeout)
		r.TimeoutMillis = max(1, remaining.Milliseconds())
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("ask the podfence agent: %w", err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("ask the podfence agent: %w", err)
	}
	if line = append(line, '\n'); len(line) > MaxSize {
		return fmt.Errorf("ask the podfence agent: %s of %d octets, %d are allowed", r.Op, len(line), MaxSize)
	}
	answer, err := exchange(ctx, socket, line)
	if err != nil {
		if ctx.Err() != nil {
			// The socket's timeout says less than why there was one.
			err = context.Cause(ctx)
		}
		if absent(err) {
			err = fmt.Errorf("none runs on this node at the moment: %w", err)
		}
		return fmt.Errorf("%w on %s: %w; kubelet tries again", ErrNoAnswer, socket, err)
	}
	switch {
	case answer.Version != Version:
		return fmt.Errorf("%w on %s: it speaks version %d of the protocol, this plugin %d: %s",
			ErrRefused, socket, answer.Version, Version, answer.Error)
	case answer.Error != "":
		return fmt.Errorf("%w: %s", ErrRefused, answer.Error)
	}
	return nil
}

// absent says whether nobody listens: the socket is not there, or a dead agent's.
func absent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}

// exchange sends a line and reads the answer to it.
func exchange(ctx context.Context, socket string, line []byte) (answer Response, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return answer, err
	}
	// Closing is how a context that ends interrupts reading and writing.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	// An agent that refuses a request by its first octets need not read the others. Its answer then
	// says more than the broken pipe.
	_, writeErr := conn.Write(line)
	text, err := readLine(conn)
	if err != nil {
		return answer, errors.Join(writeErr, err)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("its answer is no JSON: %w", err)
	}
	return answer, nil
}

var (
	errTooLong = fmt.Errorf("more than %d octets", MaxSize)
	errHalf    = errors.New("the other side hung up before the end of a line")
)

// readLine reads up to the first newline.
func readLine(r io.Reader) ([]byte, error) {
	reader := bufio.NewReader(io.LimitReader(r, MaxSize))
	line, err := reader.ReadBytes('\n')
	switch {
	case err == nil:
		return bytes.TrimSuffix(line, []byte("\n")), nil
	case errors.Is(err, io.EOF) && len(line) == MaxSize:
		return nil, errTooLong
	case errors.Is(err, io.EOF):
		return nil, errHalf
	}
	return nil, err
}
