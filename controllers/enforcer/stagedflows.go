package enforcer

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// OpenFlows are the flows that connection tracking has.
type OpenFlows interface {
	// WouldCut tells of the flows that pass now, and would be cut by other rules; asIs and wouldBe judge by those that there
	// are and by the others. bit is that of the mark that revokes; 0: none does. It changes nothing.
	WouldCut(ctx context.Context, bit uint32, asIs, wouldBe func(nft.HookPoint, policy.Packet) bool, tell func(nft.OpenFlow)) (open int, err error)
}

// openFlows notes whose established flows are to be judged by the staged table: those of pods that a policy has come
// to be staged for. The kernel does it for what begins from then on.
type openFlows struct {
	// known are the pods of the node as they were committed. It is for the loop's goroutine alone.
	known map[policy.Key]policy.Subject
	// come holds a token while there are addresses.
	come chan struct{}

	mu    sync.Mutex
	addrs map[netip.Addr]struct{}
}

func newOpenFlows() openFlows {
	return openFlows{known: map[policy.Key]policy.Subject{}, come: make(chan struct{}, 1), addrs: map[netip.Addr]struct{}{}}
}

// committed notes the pods whose policies in the staged table are others than before. A pod that is new has no flows.
func (f *openFlows) committed(c Committed) {
	var addrs []netip.Addr
	first := len(f.known) == 0
	note := func(s policy.Subject) {
		had, known := f.known[s.Key]
		if (first || known && !had.Equal(&s)) && (s.Fenced(policy.Ingress) || s.Fenced(policy.Egress)) {
			addrs = append(addrs, s.IPs...)
		}
		f.known[s.Key] = s
	}
	if c.Intent != nil { // built anew after a failure, it has what the batch had that has failed
		maps.DeleteFunc(f.known, func(key policy.Key, _ policy.Subject) bool { _, is := c.Intent.Subjects[key]; return !is })
		for _, s := range c.Intent.Subjects {
			note(s)
		}
	}
	for key, s := range c.Delta.Subjects {
		if s != nil {
			note(*s)
		} else {
			delete(f.known, key)
		}
	}
	f.add(addrs...)
}

// add has the flows of addresses judged.
func (f *openFlows) add(addrs ...netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, addr := range addrs {
		f.addrs[addr] = struct{}{}
	}
	signal(f.come)
}

// take takes the addresses out.
func (f *openFlows) take() map[netip.Addr]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	addrs := f.addrs
	f.addrs = map[netip.Addr]struct{}{}
	return addrs
}

const (
	// mostWouldRevoke is how many flows are told at once at most: there may be very many, and the last few thousand flows
	// are kept for who observes.
	mostWouldRevoke = 1000
	// wouldRevokePause is how long to leave connection tracking alone between two looks at all of its flows.
	wouldRevokePause = time.Second
)

// judge judges the established flows of pods that a policy has come to be staged for, until ctx is done: once, as the
// kernel judges what begins. inForce judges by what is enforced, and wouldTell says which chains of the staged table would
// tell of a flow. It takes a tenth of a processor at most.
func (f *openFlows) judge(ctx context.Context, o Options, inForce func(nft.HookPoint, policy.Packet) bool, wouldTell func(nft.HookPoint, policy.Packet) []string) {
	backoff := newBackoff()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.come:
		}
		began := time.Now()
		addrs, n := f.take(), 0
		wouldBe := func(hook nft.HookPoint, p policy.Packet) bool {
			_, from := addrs[p.Src]
			_, to := addrs[p.Dst]
			return !from && !to || len(wouldTell(hook, p)) == 0
		}
		_, err := o.Staged.Flows.WouldCut(ctx, o.Ruleset.RevokedMark, inForce, wouldBe, func(open nft.OpenFlow) {
			if open.Ended {
				return
			}
			if n++; n > mostWouldRevoke {
				return
			}
			for _, chain := range wouldTell(open.Hook, open.JudgedBy) {
				o.Staged.Tell(nft.Logged{
					Time: time.Now(), Family: nft.Inet, Hook: open.Hook, Prefix: chain, Packet: nft.TracePacket{Packet: open.JudgedBy, State: nft.New}, Tracked: true,
				})
			}
		})
		pause := max(wouldRevokePause, 9*time.Since(began))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = max(pause, backoff.Step())
			f.add(slices.Collect(maps.Keys(addrs))...)
			o.Report(Troubled{What: "Cannot judge established flows by the staged policies, on which nothing depends that is enforced; trying again", Err: err, Addresses: len(addrs), RetryAfter: pause})
		default:
			backoff = newBackoff()
		}
		if n > 0 {
			o.Report(WouldRevoke{Flows: n})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
