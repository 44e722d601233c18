package observer

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Log is what the kernel tells of denied packets. Receive may be called by one goroutine, and Close by any.
type Log interface {
	// Receive waits for packets, and calls do with each. It returns how many were told that did not arrive.
	// An error ends the log.
	Receive(do func(nft.Logged)) (lost int, err error)
	Close() error
}

// DenialsOptions are what Denials are told. All fields but Repeats, WouldBe and Resolutions must be set.
type DenialsOptions struct {
	// Node is the name of this node.
	Node string
	// Open opens the log.
	Open func() (Log, error)
	// DenialOf says why a packet was denied.
	DenialOf func(nft.Logged) ruleset.Denial
	// WouldBe is what would become of a denied packet in a direction with the staged policies in force; nil: nobody knows.
	WouldBe func(nft.Logged, policy.Direction) ruleset.Staged
	// LinkName is the name of a link of the node's network namespace; empty if there is none.
	LinkName func(index int) string
	Names    Names
	// Resolutions say which domain names the destinations have; nil: nobody knows.
	Resolutions Resolutions
	// Repeats is how many more packets of a told packet's flow were denied since, as long as it is known
	// (ruleset.ToldFor); nil: nobody counts. It is called by one goroutine.
	Repeats func(nft.Logged) (uint64, error)
	// Tell gets each flow, which is its own from then on, by several goroutines. It must not wait.
	Tell func(*flows.Flow)
	Log  logr.Logger
}

// Denials tells of the first packet of each flow that this node denies, or would deny with the staged policies in force,
// and sums up its repeats within ten seconds
// (see package ruleset's told.go).
type Denials struct {
	options DenialsOptions
	told    atomic.Uint64
	lost    atomic.Uint64
	repeats *repeats // nil: nobody counts
}

// NewDenials returns Denials. Start runs them.
func NewDenials(o DenialsOptions) *Denials {
	d := &Denials{options: o}
	if o.Repeats != nil {
		d.repeats = newRepeats(o.Repeats, o.Tell, o.Log)
	}
	return d
}

// Told is how many denials were told, and Lost how many more the kernel has told of that came too fast to be
// read.
func (d *Denials) Told() uint64 { return d.told.Load() }

// Lost is how many denials were lost.
func (d *Denials) Lost() uint64 { return d.lost.Load() }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent tells.
func (*Denials) NeedLeaderElection() bool { return false }

// hearSoon and hearAgain are after how long it tries again to hear of denials: at first, as an earlier agent may
// just be ending, and after soonest tries.
const (
	hearSoon, hearAgain = 100 * time.Millisecond, 5 * time.Second
	soonest             = 20
)

// Start tells of denials until ctx is done. It implements manager.Runnable. If the log cannot be opened, as
// when another program reads the group, it says so once, and tries again: nothing depends on it but what is
// told.
func (d *Denials) Start(ctx context.Context) error {
	if d.repeats != nil {
		go d.repeats.sumUp(ctx)
	}
	said := ""
	for tries := 1; ; tries++ {
		err := d.hear(ctx)
		if ctx.Err() != nil {
			return nil
		}
		after := hearSoon
		if tries >= soonest {
			if after = hearAgain; err.Error() != said {
				d.options.Log.Error(err, "Cannot hear of denied packets; policies are enforced all the same. Another program may read the group (--nflog-group)", "retryAfter", hearAgain.String())
				said = err.Error()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(after):
		}
	}
}

// hear tells of denials until ctx is done or the log ends.
func (d *Denials) hear(ctx context.Context) error {
	log, err := d.options.Open()
	if err != nil {
		return err
	}
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { closed <- log.Close() })
	for {
		lost, err := log.Receive(d.Tell)
		if lost > 0 {
			d.lost.Add(uint64(lost))
			d.options.Log.Info("Packets were denied faster than they could be told; some are missing", "lost", lost)
		}
		if err == nil {
			continue
		}
		if stop() {
			return errors.Join(err, log.Close())
		}
		return <-closed
	}
}

// Tell tells of a packet. It may be called beside the log, for packets that came in by no link.
func (d *Denials) Tell(l nft.Logged) {
	o := &d.options
	l.Packet.Frame.Port, l.Packet.Frame.Out = o.LinkName(l.InLink), o.LinkName(l.OutLink)
	l.Packet.Loopback = l.Packet.Frame.Port == "lo"
	denial := o.DenialOf(l)
	flow := &flows.Flow{
		Time: l.Time, Node: o.Node, Verdict: flows.Denied, Direction: denial.Direction, Reason: denial.Reason, Text: denial.Text, Policies: denial.Policies,
		Source: o.Names.Endpoint(l.Packet.Src, l.Packet.SrcPort), Destination: o.Names.Endpoint(l.Packet.Dst, l.Packet.DstPort), Protocol: ProtocolName(l.Packet.Protocol),
	}
	flow.DestinationNames = namesOf(o.Resolutions, &flow.Source, &flow.Destination)
	if l.Asked.IsValid() {
		flow.Asked = &flows.Asked{IP: l.Asked.Addr(), Port: l.Asked.Port()}
	}
	switch l.Packet.Protocol {
	case packet.ICMP, packet.ICMPv6:
		icmpType, icmpCode := l.Packet.ICMPType, l.ICMPCode
		flow.ICMPType, flow.ICMPCode = &icmpType, &icmpCode
	case packet.TCP:
		flow.TCPFlags = tcpFlags(l.TCPFlags)
	}
	if ruleset.IsStaged(l) {
		flow.Verdict = flows.WouldDeny
	}
	d.told.Add(1)
	told := *flow // whoever is told may change it
	if d.repeats != nil {
		d.repeats.add(l, told)
	}
	o.Tell(flow)
	d.tellWouldAllow(l, told)
}

// tellWouldAllow tells that a denied packet would be allowed, in the direction that has denied it, with the staged
// policies in force. The kernel does not ask the staged policies about what it denies, but has told of the packet all
// that they ask.
func (d *Denials) tellWouldAllow(l nft.Logged, denied flows.Flow) {
	if d.options.WouldBe == nil || denied.Verdict != flows.Denied || denied.Reason != flows.DefaultDeny && denied.Reason != flows.ByRule {
		return
	}
	direction := policy.Ingress
	if denied.Direction == flows.Egress {
		direction = policy.Egress
	}
	would := d.options.WouldBe(l, direction)
	if !would.Allowed() {
		return
	}
	flow := denied
	flow.Verdict, flow.Reason, flow.Policies = flows.WouldAllow, "", would.By
	flow.Text = "allowed with the staged policies in force"
	d.options.Tell(&flow)
}

// tcpFlags names the flags that are set.
func tcpFlags(octet uint8) string {
	var set []string
	for bit, name := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if octet>>bit&1 != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, ",")
}

// LinkNames knows the names of the links of the network namespace that the process is in. To ask for one, all
// are listed, so it remembers them for a while. It is for one goroutine.
type LinkNames struct {
	names map[int]string
	until time.Time
}

// linkNamesLast is for how long names are remembered: links keep theirs, and their numbers are not given again
// soon.
const linkNamesLast = 2 * time.Second

// Name is the name of a link; empty if there is none.
func (l *LinkNames) Name(index int) string {
	if index == 0 {
		return ""
	}
	if now := time.Now(); now.After(l.until) {
		l.names, l.until = map[int]string{}, now.Add(linkNamesLast)
		if links, err := net.Interfaces(); err == nil { // without them, no link has a name
			for _, link := range links {
				l.names[link.Index] = link.Name
			}
		}
	}
	return l.names[index]
}
