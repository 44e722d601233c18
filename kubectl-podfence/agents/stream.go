package agents

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// maxLine is how many octets a line of a stream may have.
const maxLine = 4 << 20

// Stream is how a stream of lines is read.
type Stream struct {
	// Question is sent as JSON, by POST; nil: it is asked by GET.
	Question any
	// Opening is how long the agent may take until it begins to answer, and Silence for how long it may say
	// nothing afterwards, not even an empty line.
	Opening, Silence time.Duration
	// Opened is called when the agent has begun to answer, with the time by its clock, or the zero time if it
	// does not say. Line is called for each line, without its end; the line may be kept no longer than the
	// call. If it returns an error, nothing more is read.
	Opened func(time.Time)
	Line   func([]byte) error
}

// Stream asks, and reads lines until the agent has sent all, which is no error, or ctx is done.
func (a *Agent) Stream(ctx context.Context, path string, s Stream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(s.Opening, func() { cancel(fmt.Errorf("no answer within %s", s.Opening)) })
	defer func() { silent.Stop() }()
	err := a.stream(ctx, path, Stream{
		Question: s.Question,
		Opened: func(at time.Time) {
			if silent.Stop() {
				silent = time.AfterFunc(s.Silence, func() { cancel(fmt.Errorf("it has said nothing for %s", s.Silence)) })
			}
			s.Opened(at)
		},
		Line: func(line []byte) error {
			silent.Reset(s.Silence)
			return s.Line(line)
		},
	})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx) // what was cut off says less
	}
	return fmt.Errorf("asking agent %s for %s: %w", a.Name, path, err)
}

func (a *Agent) stream(ctx context.Context, path string, s Stream) error {
	method := http.MethodGet
	if s.Question != nil {
		method = http.MethodPost
	}
	request, err := newRequest(ctx, method, path, s.Question)
	if err != nil {
		return err
	}
	w, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	defer context.AfterFunc(ctx, func() { w.Close() })()
	response, err := begin(w, request)
	if err == nil && response.StatusCode != http.StatusOK {
		_, err = bodyOf(response)
		if err == nil {
			err = fmt.Errorf("it answers %s, which is no stream", response.Status)
		}
	}
	if err != nil {
		if said := w.reason(); said != nil {
			return said
		}
		return err
	}
	at, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		at = time.Time{}
	}
	s.Opened(at)
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := s.Line(lines.Bytes()); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("its answer has a line of more than %d KiB", maxLine>>10)
	case err != nil:
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
