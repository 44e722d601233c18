package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/kubectl-podfence/agents"
)

// rehearsedFlows are flows between the same two, by the same port, on which staged policies would decide otherwise.
type rehearsedFlows struct {
	verdict            flows.Verdict
	from, to, port, by string
	flows, packets     uint64
	last               time.Time
}

// rehearsed is what agents have told of staged policies.
type rehearsed struct {
	rows []*rehearsedFlows
	// since is from when on no agent has forgotten anything; zero: no agent has seen any flow.
	since time.Time
}

// summarize writes what staged policies would have denied and allowed, as far as the agents remember. The error says
// which agents could not be asked: then what the others have told is written all the same.
func (c *staging) summarize(ctx context.Context, of []*stageable) error {
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintf(c.ErrOut, "note: %s\n", note.Message)
	}
	var mu sync.Mutex
	var all rehearsed
	failed := make([]error, len(asked))
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for i, agent := range asked {
		group.Go(func() error {
			var told []*flows.Flow
			oldest, err := c.rehearsedBy(ctx, agent, func(f *flows.Flow) { told = append(told, f) })
			if err != nil {
				failed[i] = fmt.Errorf("%s: %w", nameOf(agent), err)
				return nil // the others are asked all the same
			}
			mu.Lock()
			defer mu.Unlock()
			if oldest.After(all.since) {
				all.since = oldest
			}
			for _, f := range told {
				all.add(f, of)
			}
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errors.Join(failed...), c.write(&all))
}

// rehearsedBy reads the flows that an agent remembers, of which it hands on those on which staged policies would decide
// otherwise. The oldest of all says since when it remembers.
func (c *staging) rehearsedBy(ctx context.Context, of *askedAgent, take func(*flows.Flow)) (oldest time.Time, err error) {
	query := flows.Query{Last: flows.All}
	err = c.asking.stream(ctx, of, flows.Path+"?"+query.Values().Encode(), agents.Stream{
		Silence: silence,
		Opened:  func(time.Time) {},
		Line: func(line []byte) error {
			f, _, err := flows.ParseLine(line)
			if err != nil || f == nil {
				return err
			}
			if oldest.IsZero() || f.Time.Before(oldest) {
				oldest = f.Time
			}
			if f.Verdict == flows.WouldDeny || f.Verdict == flows.WouldAllow {
				take(f)
			}
			return nil
		},
	})
	return oldest, err
}

// add adds a flow, if one of the policies would decide it.
func (r *rehearsed) add(f *flows.Flow, of []*stageable) {
	at := slices.IndexFunc(f.Policies, func(p flows.Policy) bool {
		return slices.ContainsFunc(of, func(s *stageable) bool { return s.decides(p) })
	})
	if at < 0 {
		return
	}
	by := f.Policies[at].Name
	if f.Policies[at].Namespace != "" {
		by = f.Policies[at].Namespace + "/" + by
	}
	port := f.Protocol
	if f.Destination.Port != 0 {
		port = strconv.Itoa(int(f.Destination.Port)) + "/" + port
	}
	row := rehearsedFlows{verdict: f.Verdict, from: partyOf(&f.Source), to: partyOf(&f.Destination), port: port, by: by}
	same := slices.IndexFunc(r.rows, func(o *rehearsedFlows) bool {
		return o.verdict == row.verdict && o.from == row.from && o.to == row.to && o.port == row.port && o.by == row.by
	})
	if same < 0 {
		same, r.rows = len(r.rows), append(r.rows, &row)
	}
	into := r.rows[same]
	if f.Repeats > 0 { // of a flow that was told before
		into.packets += f.Repeats
	} else {
		into.flows, into.packets = into.flows+1, into.packets+1
	}
	if f.Time.After(into.last) {
		into.last = f.Time
	}
}

// partyOf is who an end is, as all pods of a workload are one.
func partyOf(e *flows.Endpoint) string {
	switch {
	case e.Workload != nil:
		return e.Namespace + "/" + e.Workload.Name + " (" + e.Workload.Kind + ")"
	case e.Pod != "":
		return e.Namespace + "/" + e.Pod
	case e.Node != "":
		return "node/" + e.Node
	}
	return e.IP.String()
}

// write writes a summary: what would be denied first, and of that what was seen most.
func (c *staging) write(r *rehearsed) error {
	slices.SortFunc(r.rows, func(a, b *rehearsedFlows) int {
		return cmp.Or(-cmp.Compare(a.verdict, b.verdict), -cmp.Compare(a.flows, b.flows), cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.port, b.port), cmp.Compare(a.by, b.by))
	})
	now := time.Now()
	out := printers.GetNewTabWriter(c.ErrOut)
	if len(r.rows) == 0 {
		fmt.Fprintln(out, "The agents remember nothing that would have been denied or allowed otherwise.")
	} else {
		fmt.Fprintln(out, "VERDICT\tFROM\tTO\tPORT\tPOLICY\tFLOWS\tPACKETS\tLAST SEEN")
	}
	for _, row := range r.rows {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s ago\n", row.verdict, printers.EscapeTerminal(row.from), printers.EscapeTerminal(row.to),
			printers.EscapeTerminal(row.port), printers.EscapeTerminal(row.by), row.flows, row.packets, age(row.last, now))
	}
	if r.since.IsZero() {
		fmt.Fprintln(out, "They have seen no flow since they began, so that this says little.")
	} else {
		fmt.Fprintf(out, "All agents remember the last %s at least; what was before, or was before the policy was staged, is not in this.\n", age(r.since, now))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing what would have been denied: %w", err)
	}
	return nil
}
