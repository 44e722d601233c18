package flows

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Path is where an agent is asked for flows, at its query address (--query-address). GET Path with the
// parameters of a Query answers with lines of JSON (MediaType), in the order in which the agent saw them: each
// is a Flow, or Missed. Lines that are empty keep a connection open over which nothing else is sent.
const (
	Path      = "/v1/flows"
	MediaType = "application/x-ndjson"
)

// All is the Last of a Query that asks for all flows that are kept.
const All = -1

// Query is which flows an agent is asked for.
type Query struct {
	Filter
	// Last is how many of the last flows that are kept are told at first; All, or 0 for none.
	Last int
	// Since leaves out what is kept and was before; zero: nothing.
	Since time.Time
	// Follow goes on with flows as they come, until whoever asks has gone.
	Follow bool
}

// Missed is told in place of flows that whoever reads has missed, as the agent has forgotten them before they
// were read. It says how many: of all flows, whatever the filter.
type Missed struct {
	Missed uint64 `json:"missed"`
}

// The parameters that a query has beside its filter's. since is a time (RFC 3339), or for how long (such as
// 5m). Without last, all are asked for.
const (
	lastParameter   = "last"
	sinceParameter  = "since"
	followParameter = "follow"
)

// Values are the parameters that ParseQuery reads.
func (q *Query) Values() url.Values {
	v := url.Values{}
	q.add(v)
	if q.Last >= 0 {
		v.Set(lastParameter, strconv.Itoa(q.Last))
	}
	if !q.Since.IsZero() {
		v.Set(sinceParameter, q.Since.Format(time.RFC3339Nano))
	}
	if q.Follow {
		v.Set(followParameter, "true")
	}
	return v
}

// ParseQuery reads parameters. Durations end now. A parameter that it does not know is an error: without it,
// the answer would have flows that are not meant.
func ParseQuery(values url.Values, now time.Time) (Query, error) {
	q := Query{Last: All}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		known, err := q.read(name, values[name])
		if !known {
			known, err = q.readOwn(name, values[name], now)
		}
		if !known {
			err = fmt.Errorf("there is no parameter %q", name)
		}
		if err != nil {
			return Query{}, err
		}
	}
	return q, nil
}

// readOwn reads a parameter that is not the filter's.
func (q *Query) readOwn(name string, values []string, now time.Time) (known bool, err error) {
	if len(values) != 1 {
		return true, fmt.Errorf("%s is given %d times", name, len(values))
	}
	text := values[0]
	switch name {
	case lastParameter:
		if q.Last, err = strconv.Atoi(text); err != nil || q.Last < 0 {
			return true, fmt.Errorf("%s is %q: it must be a number of flows, 0 or more", name, text)
		}
	case sinceParameter:
		if q.Since, err = ParseSince(text, now); err != nil {
			return true, fmt.Errorf("%s is %w", name, err)
		}
	case followParameter:
		if q.Follow, err = strconv.ParseBool(text); err != nil {
			return true, fmt.Errorf("%s is %q: it must be true or false", name, text)
		}
	default:
		return false, nil
	}
	return true, nil
}

// ParseSince reads a time (RFC 3339), or for how long before now, such as 5m.
func ParseSince(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%q: it must be a duration, such as 5m, or a time, such as 2026-01-31T12:00:00Z", text)
	}
	return now.Add(-d), nil
}

// WantsKept reports whether a flow that is kept is meant, but for Last.
func (q *Query) WantsKept(f *Flow) bool { return !f.Time.Before(q.Since) && q.Match(f) }

// WantsAllowed reports whether connections that pass may be meant. They have no reason.
func (q *Query) WantsAllowed() bool {
	return one(q.Verdicts, func(v Verdict) bool { return v == Allowed }) && len(q.Reasons) == 0
}

// ParseLine reads a line of an answer: a flow, or how many were missed, or neither if it is empty.
func ParseLine(line []byte) (f *Flow, missed uint64, err error) {
	if len(line) == 0 {
		return nil, 0, nil
	}
	var either struct {
		Flow
		Missed
	}
	if err := json.Unmarshal(line, &either); err != nil {
		return nil, 0, fmt.Errorf("reading a flow: %w", err)
	}
	switch {
	case either.Missed.Missed > 0:
		return nil, either.Missed.Missed, nil
	case either.Verdict == "":
		return nil, 0, errors.New("reading a flow: it has no verdict")
	}
	return &either.Flow, 0, nil
}
