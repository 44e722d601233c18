package hubble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/podfence/podfence/controllers/observer"
)

// told says a response in short: the second of a flow, or how many were lost.
func told(r *observerpb.GetFlowsResponse) string {
	if lost := r.GetLostEvents(); lost != nil {
		return fmt.Sprintf("lost %d", lost.GetNumEventsLost())
	}
	return fmt.Sprint(int(r.GetTime().AsTime().Sub(noon).Seconds()))
}

// ask asks for flows until the answer ends.
func (s *served) ask(t *testing.T, r *observerpb.GetFlowsRequest) (have []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := s.client.GetFlows(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return have
		} else if err != nil {
			t.Fatalf("after %v: %v", have, err)
		}
		have = append(have, told(m))
	}
}

// TestGetFlows: which flows are sent, in which order, of those that are kept.
func TestGetFlows(t *testing.T) {
	store := observer.NewStore(8, nil)
	for second := range 10 { // 2 to 9 are kept
		f := denied(second)
		if second%3 == 0 {
			f = allowed(second)
		}
		store.Add(f)
	}
	s := serve(t, store)
	for name, one := range map[string]struct {
		request *observerpb.GetFlowsRequest
		want    string
	}{
		"all":                     {&observerpb.GetFlowsRequest{}, "2 3 4 5 6 7 8 9"},
		"the last two":            {&observerpb.GetFlowsRequest{Number: 2}, "8 9"},
		"more than there are":     {&observerpb.GetFlowsRequest{Number: 1 << 63}, "2 3 4 5 6 7 8 9"},
		"the first two":           {&observerpb.GetFlowsRequest{Number: 2, First: true}, "2 3"},
		"since":                   {&observerpb.GetFlowsRequest{Since: at(7)}, "7 8 9"},
		"until":                   {&observerpb.GetFlowsRequest{Until: at(3)}, "2 3"},
		"between":                 {&observerpb.GetFlowsRequest{Since: at(4), Until: at(6)}, "4 5 6"},
		"the first since":         {&observerpb.GetFlowsRequest{Since: at(5), Number: 2}, "5 6"},
		"the last until":          {&observerpb.GetFlowsRequest{Until: at(5), Number: 2}, "4 5"},
		"since later":             {&observerpb.GetFlowsRequest{Since: at(10)}, ""},
		"the last that passed":    {&observerpb.GetFlowsRequest{Number: 2, Whitelist: []*flowpb.FlowFilter{{Verdict: []flowpb.Verdict{flowpb.Verdict_FORWARDED}}}}, "6 9"},
		"the first that did not":  {&observerpb.GetFlowsRequest{Number: 3, First: true, Blacklist: []*flowpb.FlowFilter{{Verdict: []flowpb.Verdict{flowpb.Verdict_FORWARDED}}}}, "2 4 5"},
		"either, but not another": {&observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{Protocol: []string{"udp"}}, {Protocol: []string{"tcp"}}}, Blacklist: []*flowpb.FlowFilter{{Protocol: []string{"icmp"}}, {Protocol: []string{"tcp"}}}}, "3 6 9"},
	} {
		// Each flow by one of its two events.
		one.request.Blacklist = append(one.request.Blacklist, &flowpb.FlowFilter{EventType: []*flowpb.EventTypeFilter{{Type: eventPolicyVerdict}}})
		if have := strings.Join(s.ask(t, one.request), " "); have != one.want {
			t.Errorf("%s: %q, want %q", name, have, one.want)
		}
	}
	if have := strings.Join(s.ask(t, &observerpb.GetFlowsRequest{Number: 3}), " "); have != "8 9 9" {
		t.Errorf("the last three events: %q, want the second of one flow's and both of another's", have)
	}
	if have := serve(t, observer.NewStore(8, nil)).ask(t, &observerpb.GetFlowsRequest{Number: 3}); have != nil {
		t.Errorf("without a flow: %q", have)
	}
}

// TestGetFlowsRefuses: what cannot be answered is refused, with a reason.
func TestGetFlowsRefuses(t *testing.T) {
	s := serve(t, stored(8, denied(0)))
	for want, r := range map[string]*observerpb.GetFlowsRequest{
		"follow":     {First: true, Follow: true},
		"whitelist":  {Whitelist: []*flowpb.FlowFilter{{SourcePort: []string{"x"}}}},
		"blacklist":  {Blacklist: []*flowpb.FlowFilter{{SourcePort: []string{"x"}}}},
		"dns_query":  {Whitelist: []*flowpb.FlowFilter{{DnsQuery: []string{"x"}}}},
		"field_mask": {FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"time", "nothing"}}},
		"since":      {Since: &timestamppb.Timestamp{Nanos: -1}},
		"until":      {Until: &timestamppb.Timestamp{Nanos: -1}},
	} {
		stream, err := s.client.GetFlows(t.Context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestFollow: what comes is sent, after the last ones that were asked for, and connections that pass are
// asked for as long as somebody follows who could be shown one.
func TestFollow(t *testing.T) {
	for name, one := range map[string]struct {
		request *observerpb.GetFlowsRequest
		before  string
		allowed bool
	}{
		"from now on":     {&observerpb.GetFlowsRequest{Whitelist: drops()}, "", false},
		"after the last":  {&observerpb.GetFlowsRequest{Whitelist: drops(), Number: 2}, "2 3", false},
		"since":           {&observerpb.GetFlowsRequest{Whitelist: drops(), Since: at(1)}, "1 2 3", false},
		"what passes too": {&observerpb.GetFlowsRequest{Blacklist: []*flowpb.FlowFilter{{EventType: []*flowpb.EventTypeFilter{{Type: eventPolicyVerdict}}}}, Number: 1}, "3", true},
	} {
		observing := make(chan bool, 4)
		store := observer.NewStore(8, func(on bool) { observing <- on })
		for second := range 4 {
			store.Add(denied(second))
		}
		s := serve(t, store)
		one.request.Follow = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		stream, err := s.client.GetFlows(ctx, one.request)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for range len(strings.Fields(one.before)) {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			have = append(have, told(m))
		}
		if strings.Join(have, " ") != one.before {
			t.Errorf("%s: %q first, want %q", name, have, one.before)
		}
		if one.allowed && !<-observing {
			t.Errorf("%s: nobody asks for what passes", name)
		}
		if one.before == "" {
			waitFor(t, "the call", func() bool { return len(s.server.streams) == 1 })
			time.Sleep(50 * time.Millisecond) // it has looked where the last flow is
		}
		for second := 4; second < 6; second++ {
			store.Add(denied(second))
			if m, err := stream.Recv(); err != nil || told(m) != fmt.Sprint(second) {
				t.Errorf("%s: %v, %v, want %d", name, m, err, second)
			}
		}
		cancel()
		waitFor(t, "the call's end", func() bool { return len(s.server.streams) == 0 })
		if one.allowed && <-observing {
			t.Errorf("%s: what passes is asked for when nobody follows", name)
		}
		if len(observing) != 0 {
			t.Errorf("%s: what passes is asked for", name)
		}
	}
}

// TestFollowUntil: who follows until a time gets what is kept and what comes until then, and then an end, also
// if that time was before the call. The numbers are those that Cilium's own server sends, but for the last so many
// until a time: Cilium's takes the last of all.
func TestFollowUntil(t *testing.T) {
	const soon = 100 * time.Millisecond
	for name, one := range map[string]struct {
		request *observerpb.GetFlowsRequest
		// until and since are from now on.
		until, since time.Duration
		want         string
	}{
		"all until a time that is past":    {request: &observerpb.GetFlowsRequest{Until: at(2)}, want: "0 1 2"},
		"between times that are past":      {request: &observerpb.GetFlowsRequest{Since: at(1), Until: at(2)}, want: "1 2"},
		"any number since":                 {request: &observerpb.GetFlowsRequest{Since: at(1), Until: at(4), Number: 2}, want: "1 2 3 4"},
		"the last until":                   {request: &observerpb.GetFlowsRequest{Until: at(4), Number: 2}, want: "3 4"},
		"until before the first":           {request: &observerpb.GetFlowsRequest{Until: at(-1), Number: 2}},
		"since after until":                {request: &observerpb.GetFlowsRequest{Since: at(4), Until: at(1)}},
		"the last until soon":              {request: &observerpb.GetFlowsRequest{Number: 2}, until: soon, want: "4 5 ..."},
		"since until soon":                 {request: &observerpb.GetFlowsRequest{Since: at(3)}, until: soon, want: "3 4 5 ..."},
		"since until a moment ago":         {request: &observerpb.GetFlowsRequest{Since: at(3)}, until: -1, want: "3 4 5 ..."},
		"from now on until soon":           {request: &observerpb.GetFlowsRequest{}, until: soon, want: "..."},
		"since later until soon":           {request: &observerpb.GetFlowsRequest{}, since: soon / 2, until: soon, want: "..."},
		"since later until then, a number": {request: &observerpb.GetFlowsRequest{Number: 7}, since: soon / 2, until: soon, want: "..."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := observer.NewStore(16, nil)
			for second := range 6 {
				store.Add(denied(second))
			}
			s := serve(t, store)
			one.request.Follow, one.request.Whitelist = true, drops()
			if one.since != 0 {
				one.request.Since = timestamppb.New(time.Now().Add(one.since))
			}
			want := strings.Fields(one.want)
			if one.until != 0 {
				until := time.Now().Add(one.until)
				one.request.Until = timestamppb.New(until)
				want[len(want)-1] = fmt.Sprint(int(until.Add(-1).Sub(noon).Seconds()))
				go func() { // a flow that was seen in time, and comes a little late, and one that was not
					time.Sleep(time.Until(until) + soon)
					for _, seen := range []time.Time{until.Add(-1), until.Add(1)} {
						f := *denied(0)
						f.Time = seen
						store.Add(&f)
					}
				}()
			}
			have := s.ask(t, one.request)
			if !slices.Equal(have, want) {
				t.Errorf("%q, want %q", have, want)
			}
		})
	}
}

// waitFor waits until something is so.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there is no %s", what)
		}
	}
}

// TestLost: a reader is told how many flows it has missed, at once and then at most once in a while, and
// what it has missed is neither sent nor counted as sent.
func TestLost(t *testing.T) {
	store := stored(4)
	var have []string
	q := &query{store: store, converter: newConverter("node-1", "v1"), node: "node-1", follow: true, number: 3, whitelist: mustRead(t, drops())}
	for second := range 4 {
		store.Add(denied(second))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := q.run(ctx, func(m *observerpb.GetFlowsResponse) error {
		have = append(have, told(m))
		switch len(have) {
		case 1: // of the seconds 1 to 3: while 1 is sent, 4 to 8 come, of which four are kept
			for second := 4; second < 9; second++ {
				store.Add(denied(second))
			}
		case 4: // lost 3, 5, 6: then 9 to 13 come, of which four are kept, so that 7 to 9 are missed
			for second := 9; second < 14; second++ {
				store.Add(denied(second))
			}
		case 9:
			cancel()
		}
		return nil
	})
	if want := "1 lost 3 5 6 10 11 12 13 lost 3"; strings.Join(have, " ") != want || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v, want %q", have, err, want)
	}
}

// TestLostAtTheEnd: who asks for what is kept is told of what was lost meanwhile, too.
func TestLostAtTheEnd(t *testing.T) {
	store := stored(2, denied(0), denied(1))
	var have []string
	q := &query{store: store, converter: newConverter("node-1", "v1"), whitelist: mustRead(t, drops())}
	if err := q.run(t.Context(), func(m *observerpb.GetFlowsResponse) error {
		if have = append(have, told(m)); len(have) == 1 {
			store.Add(denied(2))
			store.Add(denied(3))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if want := "0 lost 1 2"; strings.Join(have, " ") != want {
		t.Errorf("%q, want %q", have, want)
	}
}

func mustRead(t *testing.T, all []*flowpb.FlowFilter) filters {
	t.Helper()
	f, err := readFilters("whitelist", all)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFieldMask: a client gets the fields that it asks for. The filters see the others, too.
func TestFieldMask(t *testing.T) {
	s := serve(t, stored(4, denied(0)))
	for paths, want := range map[string]string{
		"source.pod_name":                   `source:{pod_name:"web-0"}`,
		"source.pod_name source":            `labels:"k8s:app=web" labels`,
		"source source.pod_name":            `labels:"k8s:app=web" labels`,
		"l4.TCP.flags destination.pod_name": `l4:{TCP:{flags:{SYN:true}}} destination:{pod_name:"db-0"}`,
		"source_names":                      ``,
	} {
		stream, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Whitelist: drops(), FieldMask: &fieldmaskpb.FieldMask{Paths: strings.Fields(paths)}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		have := strings.ReplaceAll(strings.ReplaceAll(m.GetFlow().String(), "  ", " "), ": ", ":")
		if !strings.Contains(have, want) || strings.Contains(have, "verdict") || strings.HasSuffix(want, "}") && strings.Contains(have, "labels") {
			t.Errorf("%s: %s, want %s", paths, have, want)
		}
		if m.GetNodeName() != "node-1" || !m.GetTime().AsTime().Equal(noon) {
			t.Errorf("%s: of %s at %s", paths, m.GetNodeName(), m.GetTime().AsTime())
		}
	}
}

// TestSlowClient: who takes nothing is given up on, and nobody else waits: neither who adds flows nor who
// reads them.
func TestSlowClient(t *testing.T) {
	store := observer.NewStore(64, nil)
	s := serve(t, store, func(s *Server) { s.sendTimeout = 100 * time.Millisecond })
	slow, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Follow: true, Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the call", func() bool { return len(s.server.streams) == 1 })
	large := strings.Repeat("x", 16<<10)
	for end := time.Now().Add(30 * time.Second); len(s.server.streams) > 0; {
		f := *denied(0)
		f.Text = large
		began := time.Now()
		store.Add(&f)
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("adding a flow took %s", took)
		}
		if time.Now().After(end) {
			t.Fatal("the client has taken nothing, and is still served")
		}
		time.Sleep(time.Millisecond)
	}
	if have := s.ask(t, &observerpb.GetFlowsRequest{Number: 2}); len(have) != 2 {
		t.Errorf("another client gets %v", have)
	}
	for {
		if _, err = slow.Recv(); err != nil {
			break
		}
	}
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "RST_STREAM") {
		t.Errorf("it is told %v", err)
	}
}

// TestManyStreams: so many may observe at once, and the next one is refused.
func TestManyStreams(t *testing.T) {
	s := serve(t, observer.NewStore(4, nil))
	if cap(s.server.streams) != maxStreams {
		t.Fatalf("%d may", cap(s.server.streams))
	}
	for range maxStreams {
		s.server.streams <- struct{}{}
	}
	stream, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
	<-s.server.streams
	if have := s.ask(t, &observerpb.GetFlowsRequest{}); have != nil {
		t.Errorf("%v", have)
	}
}
