package agents

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/podfence/podfence/api/answers"
)

// maxAnswer is how many octets an answer may have. A node's whole status has a few hundred kilobytes at most.
const maxAnswer = 32 << 20

// way is an open way to an agent, over which one request is sent.
type way interface {
	io.ReadWriteCloser
	// reason is why the way has failed, if somebody on it has said so; nil if not.
	reason() error
}

// Agent is an agent that can be asked. It may be asked by several goroutines at once: each Ask opens a way of
// its own.
type Agent struct {
	// Name says where it is: its pod (NAMESPACE/NAME), or an address.
	Name string
	open func(context.Context) (way, error)
}

// newAgent is an agent to which open opens a way.
func newAgent(name string, open func(context.Context) (way, error)) *Agent { return &Agent{name, open} }

// At is the agent that answers at an address (HOST:PORT, or HOST for the usual port), without a cluster. HOST
// is of this machine as a rule, as agents answer on loopback addresses only.
func At(address string) (*Agent, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.Trim(address, "[]"), strconv.Itoa(answers.DefaultPort)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ ") {
		return nil, fmt.Errorf("%q is no address of an agent: it must be HOST:PORT, such as %s", address, answers.DefaultAddress)
	}
	address = net.JoinHostPort(host, port)
	return &Agent{Name: address, open: func(ctx context.Context) (way, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return direct{conn}, nil
	}}, nil
}

// direct is a way with nobody on it who could say anything.
type direct struct{ net.Conn }

func (direct) reason() error { return nil }

// Ask sends one HTTP request, with in as its JSON unless it is nil, and reads the answer's JSON into out. An
// answer that is no success is an error with its text; an agent of which too many ask at once is asked
// again. It ends when ctx does.
func (a *Agent) Ask(ctx context.Context, method, path string, in, out any) error {
	for {
		err := a.ask(ctx, method, path, in, out)
		if err == nil {
			return nil
		}
		isBusy := IsBusy(err)
		if isBusy {
			select {
			case <-ctx.Done():
			case <-time.After(askAgain):
				continue
			}
		}
		if ctx.Err() != nil && !isBusy {
			err = context.Cause(ctx) // what was cut off says less
		}
		return fmt.Errorf("asking agent %s for %s: %w", a.Name, path, err)
	}
}

// askAgain is after how long an agent is asked again that is busy.
const askAgain = 500 * time.Millisecond

// busyError is the answer of an agent of which too many ask at once.
type busyError struct{ error }

// IsBusy reports whether an agent has not answered because too many ask it at once.
func IsBusy(err error) bool {
	var busy busyError
	return errors.As(err, &busy)
}

func (a *Agent) ask(ctx context.Context, method, path string, in, out any) error {
	request, err := newRequest(ctx, method, path, in)
	if err != nil {
		return err
	}
	w, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	defer context.AfterFunc(ctx, func() { w.Close() })()
	text, err := exchange(w, request)
	if err != nil {
		if said := w.reason(); said != nil {
			return said
		}
		return err
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("its answer is not what this version of the plugin understands: %w", err)
	}
	return nil
}

func newRequest(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("writing the question as JSON: %w", err)
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+answers.DefaultAddress+path, body)
	if err != nil {
		return nil, err
	}
	request.Close = true
	request.Header.Set("Accept", "application/json")
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// exchange sends a request over a way, and returns the body of an answer that is a success.
func exchange(w io.ReadWriter, request *http.Request) ([]byte, error) {
	response, err := begin(w, request)
	if err != nil {
		return nil, err
	}
	return bodyOf(response)
}

// begin sends a request over a way, and reads the head of the answer. The body is not to be closed, as that would
// read it to its end, which may never come. The caller closes the way.
func begin(w io.ReadWriter, request *http.Request) (*http.Response, error) {
	if err := request.Write(w); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(w), request)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return response, nil
}

// bodyOf reads the body of an answer that is a success.
func bodyOf(response *http.Response) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("its answer has more than %d MiB", maxAnswer>>20)
	case response.StatusCode == http.StatusNotFound:
		return nil, errors.New("it does not know the question (HTTP 404): it is of an older version than this plugin")
	case response.StatusCode == http.StatusTooManyRequests:
		return nil, busyError{fmt.Errorf("it answers %s: %s", response.Status, failureOf(text))}
	case response.StatusCode < 200 || response.StatusCode > 299:
		return nil, fmt.Errorf("it answers %s: %s", response.Status, failureOf(text))
	}
	return text, nil
}

// failureOf is what the answer to a question that has none says.
func failureOf(text []byte) string {
	var failure answers.Failure
	if err := json.Unmarshal(text, &failure); err == nil && failure.Message != "" {
		text = []byte(failure.Message)
	}
	return firstLine(text)
}

// firstLine is the first line of a text, of which not more than can be read.
func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if len(line) > 300 {
		line = line[:300] + "…"
	}
	return strings.ToValidUTF8(line, "?")
}
