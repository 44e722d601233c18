package agreement

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
)

// told is what the kernel has told of packets that it has denied.
type told struct {
	reader *kernel.LogReader
	ended  chan struct{}

	mu   sync.Mutex
	all  []nft.Logged
	lost int
}

// hear starts to listen at the node.
func hear(node *lab.Node) (*told, error) {
	reader, err := kernel.OpenLog(kernel.Options{NetNS: node.NetNS()}, LogGroup)
	if err != nil {
		return nil, err
	}
	t := &told{reader: reader, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		for {
			lost, err := reader.Receive(func(l nft.Logged) {
				t.mu.Lock()
				t.all = append(t.all, l)
				t.mu.Unlock()
			})
			if err != nil {
				return
			}
			t.mu.Lock()
			t.lost += lost
			t.mu.Unlock()
		}
	}()
	return t, nil
}

func (t *told) close() error {
	err := t.reader.Close()
	<-t.ended
	return err
}

// flush is for how long the kernel gathers what it tells, and more.
const flush = 300 * time.Millisecond

// take hands out what was told since the last call, when no more comes.
func (t *told) take() (all []nft.Logged, lost int) {
	time.Sleep(flush)
	t.mu.Lock()
	defer t.mu.Unlock()
	all, lost, t.all, t.lost = t.all, t.lost, nil, 0
	return all, lost
}

// forgetTold has the tables tell all flows once more, as if nothing had been denied before.
func (c *Cluster) forgetTold() error {
	commands := ""
	forget := func(table string, t *nft.Table) {
		for name := range t.Sets {
			if slices.ContainsFunc([]string{"told-", "telling-", "denied-rates-", "flooding-"}, func(begin string) bool { return strings.HasPrefix(name, begin) }) {
				commands += fmt.Sprintf("flush set %s %s\n", table, name)
			}
		}
	}
	forget("inet "+nft.TableName, &c.table.Table)
	forget("inet "+nft.StagedTableName, &c.staged.table.Table)
	if c.guard != nil {
		forget("bridge "+nft.TableName, &c.guard.Table)
	}
	return c.NFT(commands)
}

// isPlain reports whether a packet is one of which frames are told: from an address that is not link-local,
// not wrapped, and with its upper layer.
func isPlain(r *Result) bool {
	return r.Wire.Wrap == lab.Plain && r.Wire.Fragments == lab.Uncut && len(r.Wire.Extensions) == 0 && !r.Seen.Src.IsLinkLocalUnicast() && !r.Seen.Src.IsUnspecified() &&
		!r.addressed().IsMulticast() && r.addressed() != broadcast
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// toldFlow is a flow, as far as denials tell them apart.
type toldFlow struct {
	src, dst netip.Addr
	protocol policy.Protocol
	port     uint16
}

func toldFlowOf(p policy.Packet) toldFlow {
	f := toldFlow{src: p.Src, dst: p.Dst, protocol: p.Protocol, port: p.DstPort}
	if p.Protocol == packet.ICMP || p.Protocol == packet.ICMPv6 {
		f.port = 0
	}
	return f
}

// checkTold compares what the kernel has told with what it was to tell: of each flow of which the table of
// family inet has denied a packet once, with the reason; and nothing of a flow that passes.
func (c *Cluster) checkTold(report Report, took time.Duration) (compared int, err error) {
	if c.told == nil || c.options.LogGroup == 0 {
		return 0, nil
	}
	all, lost := c.told.take()
	if lost > 0 {
		return 0, fmt.Errorf("%d of what was told is lost", lost)
	}
	have, frames := map[toldFlow][]nft.Logged{}, map[toldFlow][]nft.Logged{}
	ofStaged := func(l nft.Logged) bool { return ruleset.IsStaged(l) }
	wouldDeny, stagedErr := c.checkStaged(report, slices.DeleteFunc(slices.Clone(all), func(l nft.Logged) bool { return !ofStaged(l) }), took)
	if c.ToldStaged += wouldDeny; stagedErr != nil {
		return 0, stagedErr
	}
	for _, l := range slices.DeleteFunc(all, ofStaged) {
		key := toldFlowOf(l.Packet.Packet)
		if l.Family == nft.Bridge {
			frames[key] = append(frames[key], l)
			continue
		}
		have[key] = append(have[key], l)
	}
	denied, passes := map[toldFlow][]*Result{}, map[toldFlow]*Result{}
	unclear := map[toldFlow]bool{}
	for _, r := range report {
		if r.Own {
			continue
		}
		seen := r.Seen
		if len(r.Trace.Steps) > 0 && r.Trace.Steps[0].Chain == "sources-prerouting" {
			seen.Dst, seen.DstPort = r.addressed(), r.Probe.Packet.DstPort
		}
		key := toldFlowOf(seen)
		switch {
		case r.Refused != "" || seen.Dst.IsMulticast() || seen.Dst == broadcast || // a bridge floods it, and each copy is judged
			r.Wire.Fragments == lab.LaterAlone || !r.Agree():
			unclear[key] = true
		case r.Traced:
			passes[key] = r
		case c.guard != nil && len(r.Trace.Steps) > 0 && c.guard.Chains[r.Trace.Steps[0].Chain] != nil:
			if !isPlain(r) {
				continue
			}
			seen.Dst, seen.DstPort = r.addressed(), r.Probe.Packet.DstPort
			compared++
			n := len(frames[toldFlowOf(seen)])
			if n == 0 || n > 1 && took < 8*time.Second {
				return compared, fmt.Errorf("a frame told %d times, want once: %s", n, r)
			}
			if said := c.table.DenialOf(frames[toldFlowOf(seen)][0]); !strings.HasSuffix(r.Trace.Steps[len(r.Trace.Steps)-1].Chain, string(said.Reason)) {
				return compared, fmt.Errorf("it says %+v of a frame: %s", said, r)
			}
		case slices.ContainsFunc(r.Trace.Steps, func(s nft.Step) bool {
			return strings.HasPrefix(s.Chain, "rejected") || strings.HasPrefix(s.Chain, "denied")
		}):
			denied[key] = append(denied[key], r)
		}
	}
	var errs []error
	for key, results := range denied {
		if unclear[key] {
			continue
		}
		compared++
		n := len(have[key])
		if n == 0 || n > 1 && took < 8*time.Second {
			errs = append(errs, fmt.Errorf("told %d times, want once: %s", n, results[0]))
			continue
		}
		errs = append(errs, c.rightReason(have[key][0], results))
	}
	for key, r := range passes {
		have[key] = slices.DeleteFunc(have[key], func(l nft.Logged) bool { return l.Packet.ICMPType != r.Seen.ICMPType }) // errors of a host's own stack
		if len(have[key]) > 0 && denied[key] == nil && !unclear[key] {
			errs = append(errs, fmt.Errorf("told %d times, though it passes: %s", len(have[key]), r))
		}
	}
	return compared, errors.Join(errs...)
}

// rightReason reports whether what is said of a denied packet is what the table, and whoever judges, say of
// one of the packets of the flow that were sent.
func (c *Cluster) rightReason(l nft.Logged, results []*Result) error {
	said := c.table.DenialOf(l)
	isICMP := l.Packet.Protocol == packet.ICMP || l.Packet.Protocol == packet.ICMPv6
	if isICMP && !slices.ContainsFunc(results, func(r *Result) bool { return r.Seen.ICMPType == l.Packet.ICMPType }) {
		return nil // an error of a host's own stack, which counts as of the same flow
	}
	for _, r := range results {
		if !l.Tracked && (r.State == nft.Related || r.State == nft.Untracked) && c.deniedSo(l, r, said.Text) {
			return nil // this kernel does not tell which of the two it was
		}
		if (said.Text == c.table.Denied(r.Trace) || strings.HasSuffix(said.Text, "are not known")) && judgedSo(r, said.Reason, said.Direction, said.Policies) {
			return nil
		}
	}
	return fmt.Errorf("it says %+v of %+v, want %q: %s", said, l, c.table.Denied(results[0].Trace), results[0])
}

// deniedSo reports whether the table denies a packet for a reason if connection tracking calls it new.
func (c *Cluster) deniedSo(l nft.Logged, r *Result, text string) bool {
	p := l.Packet
	p.State, p.Hairpin = nft.New, r.Seen.Hairpin
	trace := c.table.Trace(l.Hook, p)
	return trace.Verdict != nft.Accept && c.table.Denied(trace) == text
}

// judgedSo reports whether a reason is one that Judge gives, who knows neither tables nor traces. It knows
// nothing of what podfence denies whatever the policies say.
func judgedSo(r *Result, reason flows.Reason, direction flows.Direction, policies []flows.Policy) bool {
	j := r.Verdict.Ingress
	if direction == flows.Egress {
		j = r.Verdict.Egress
	}
	switch reason {
	case flows.DefaultDeny:
		// Of several pods that have the address, the first denies; Judge names the policies of all.
		return len(policies) > 0 && !slices.ContainsFunc(policies, func(p flows.Policy) bool {
			return !slices.Contains(j.Isolating, policy.Key{Namespace: p.Namespace, Name: p.Name})
		})
	case flows.ByRule:
		return len(policies) == 1 && slices.ContainsFunc(j.DeniedBy, func(ref policy.RuleRef) bool {
			return ref.Policy.Namespace == "" && ref.Policy.Name == policies[0].Name && (policies[0].Rule == nil || ref.Rule == *policies[0].Rule)
		})
	}
	return true
}
