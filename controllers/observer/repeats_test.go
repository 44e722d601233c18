package observer_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// packets is a log of packets. It ends when it is closed.
type packets struct {
	in     chan nft.Logged
	closed chan struct{}
}

func (p *packets) Receive(do func(nft.Logged)) (int, error) {
	select {
	case l := <-p.in:
		do(l)
		return 0, nil
	case <-p.closed:
		return 0, errors.New("closed")
	}
}

func (p *packets) Close() error { close(p.closed); return nil }

// nobody knows no names.
type nobody struct{}

func (nobody) Endpoint(ip netip.Addr, port uint16) flows.Endpoint {
	return flows.Endpoint{IP: ip, Port: port}
}

// toldOf runs Denials of these packets, whose repeats count says, for a minute. It returns what is told, after how
// long.
func toldOf(t *testing.T, logged []nft.Logged, log logr.Logger, count func(nft.Logged) (uint64, error)) (told []*flows.Flow) {
	t.Helper()
	var mu sync.Mutex
	synctest.Test(t, func(t *testing.T) {
		in := &packets{in: make(chan nft.Logged), closed: make(chan struct{})}
		d := observer.NewDenials(observer.DenialsOptions{
			Node: "node", Open: func() (observer.Log, error) { return in, nil }, Names: nobody{},
			DenialOf: func(nft.Logged) ruleset.Denial {
				return ruleset.Denial{Reason: flows.DefaultDeny, Direction: flows.Egress}
			},
			LinkName: func(int) string { return "" },
			Repeats:  count, Log: log,
			Tell: func(f *flows.Flow) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, f)
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Start(ctx) }()
		for _, l := range logged {
			l.Time = time.Now()
			in.in <- l
		}
		time.Sleep(time.Minute)
		stop()
		<-ended
		synctest.Wait()
	})
	return told
}

// to is a packet to a port.
func to(port uint16) nft.Logged {
	var l nft.Logged
	l.Packet.Src, l.Packet.Dst, l.Packet.DstPort = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), port
	return l
}

// TestRepeatsAreSummedUp: of a flow that was denied again there is a sum, before the kernel forgets the flow; of
// another there is none. What cannot be read is said once, and the others are summed up all the same.
func TestRepeatsAreSummedUp(t *testing.T) {
	said := 0
	log := funcr.New(func(string, string) { said++ }, funcr.Options{})
	told := toldOf(t, []nft.Logged{to(1), to(2), to(3), to(4), to(5)}, log, func(l nft.Logged) (uint64, error) {
		switch l.Packet.DstPort {
		case 2, 3:
			return 0, errors.New("no answer")
		case 4:
			return 0, nil
		}
		return 10 * uint64(l.Packet.DstPort), nil
	})
	if len(told) != 7 {
		t.Fatalf("%d flows are told, want five and two sums", len(told))
	}
	for i, want := range map[int]uint64{0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 10, 6: 50} {
		f := told[i]
		if f.Repeats != want || f.Reason != flows.DefaultDeny {
			t.Errorf("%d: %+v", i, f)
		}
		if after := f.Time.Sub(told[0].Time); want > 0 && (after < 5*time.Second || after >= ruleset.ToldFor*time.Second) {
			t.Errorf("%d is told after %s", i, after)
		}
	}
	if said != 1 {
		t.Errorf("it is said %d times that repeats cannot be read, want once", said)
	}
}

// TestRepeatsAreBounded: of a great many flows at once, some are not summed up, and all are told.
func TestRepeatsAreBounded(t *testing.T) {
	const n = 10_000
	many := make([]nft.Logged, n)
	for i := range many {
		many[i] = to(uint16(i))
	}
	told := toldOf(t, many, logr.Discard(), func(nft.Logged) (uint64, error) { return 1, nil })
	if sums := len(told) - n; sums < 4096 || sums > 5000 {
		t.Errorf("%d flows are told, and %d sums", n, sums)
	}
}
