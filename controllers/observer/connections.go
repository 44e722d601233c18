package observer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// ConnEvents tells which connections begin and end. Its methods may be called from any goroutine.
type ConnEvents interface {
	// Observe calls tell with each event, in order, until ctx is done, and before that began; uncounted
	// says why packets and bytes are not counted, nil: they are. The event is valid during the call only.
	// An error says why there are no events, or none any more.
	Observe(ctx context.Context, began func(uncounted error), tell func(*nft.ConnEvent)) error
	// Lost is how many events were lost.
	Lost() uint64
}

// Names says who has an address. Its methods may be called from any goroutine.
type Names interface {
	// Endpoint is the end of a flow with an address and port, with the names of who has them as far as that
	// is known.
	Endpoint(addr netip.Addr, port uint16) flows.Endpoint
}

// Resolutions says by which domain names a pod, by the address that it sends from, or the agent was told of an address: those
// that count, and some whose time is over. It may be called from any goroutine.
type Resolutions interface {
	ResolutionsTo(pod, addr netip.Addr) (counting, lapsed []policy.Resolution)
}

// namesOf are the domain names that a pod at the source of a flow was told the destination has.
func namesOf(r Resolutions, source, destination *flows.Endpoint) (names []string) {
	if r == nil || source.Pod == "" {
		return nil
	}
	counting, _ := r.ResolutionsTo(source.IP, destination.IP)
	for _, one := range counting {
		if len(names) < flows.MaxNames && !slices.Contains(names, one.Name) {
			names = append(names, one.Name)
		}
	}
	return names
}

// ConnectionsOptions are what Connections are told. All fields but Resolutions must be set.
type ConnectionsOptions struct {
	// Node is the name of this node.
	Node   string
	Events ConnEvents
	Names  Names
	// Resolutions say which domain names the destinations have; nil: nobody knows.
	Resolutions Resolutions
	// AllowedBy says which rules of policies let the first packet of a connection pass a hook. It is called by
	// one goroutine at a time.
	AllowedBy func(nft.HookPoint, policy.Packet) []ruleset.Decided
	// Tell gets each flow. It must not wait.
	Tell func(*flows.Flow)
	Log  logr.Logger
}

// Connections tells, while somebody observes, of each connection that begins or ends on this node and of
// which an end is a pod.
//
// Of one that begins, a Flow is told for each direction in which a rule of a policy has let it pass, with
// that rule, as Hubble does: for a connection between two isolated pods of this node, that is one for
// egress and one for ingress. Without such a rule, one Flow is told, without a direction. Of one that ends,
// one Flow is told, with what it has carried in both directions, so that nobody counts that twice. It has no
// rule: what has let it pass may have changed since.
type Connections struct {
	options ConnectionsOptions

	mu sync.Mutex
	// wanted: somebody observes. changed holds a token while Start does not know it yet.
	wanted  bool
	changed chan struct{}
}

// NewConnections returns Connections. Start runs them.
func NewConnections(o ConnectionsOptions) *Connections {
	return &Connections{options: o, changed: make(chan struct{}, 1)}
}

// Observing says whether somebody observes; NewStore takes it. It does not wait, and may be called from any
// goroutine.
func (c *Connections) Observing(on bool) {
	c.mu.Lock()
	c.wanted = on
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *Connections) isWanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanted
}

// Lost is how many events of connections were lost because they came faster than they were read.
func (c *Connections) Lost() uint64 { return c.options.Events.Lost() }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent observes.
func (*Connections) NeedLeaderElection() bool { return false }

// observeAgain is after how long it tries again to hear of connections.
const observeAgain = 5 * time.Second

// Start listens whenever somebody observes, until ctx is done. It implements manager.Runnable. If there are
// no connections to hear of, it says why, and tries again.
func (c *Connections) Start(ctx context.Context) error {
	for said := ""; ; {
		var again <-chan time.Time
		if c.isWanted() {
			if err := c.observe(ctx); err != nil && ctx.Err() == nil {
				if err.Error() != said {
					c.options.Log.Error(err, "Cannot observe connections; denied packets are told of all the same", "retryAfter", observeAgain.String())
					said = err.Error()
				}
				again = time.After(observeAgain)
			}
		} else {
			said = ""
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.changed:
		case <-again:
		}
	}
}

// observe tells of connections until nobody observes any more.
func (c *Connections) observe(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		defer cancel()
		for c.isWanted() {
			select {
			case <-ended:
				return
			case <-c.changed:
			}
		}
	})
	before := c.Lost()
	err := c.options.Events.Observe(ctx, func(uncounted error) {
		c.options.Log.Info("Observing connections, as somebody has asked for them")
		if uncounted != nil {
			c.options.Log.Info("Connections are observed without counts", "reason", uncounted.Error())
		}
	}, c.tell)
	close(ended)
	waiting.Wait()
	if lost := c.Lost() - before; lost > 0 {
		c.options.Log.Info("Connections have begun and ended faster than they could be told; some are missing", "lost", lost)
	}
	return err
}

// tell tells of an event, if an end of the connection is a pod.
func (c *Connections) tell(e *nft.ConnEvent) {
	o := &c.options
	source, destination := o.Names.Endpoint(e.Original.Src.Addr(), e.Original.Src.Port()), o.Names.Endpoint(e.Reply.Src.Addr(), e.Reply.Src.Port())
	if source.Pod == "" && destination.Pod == "" {
		return
	}
	flow := flows.Flow{
		Time: e.Time, Node: o.Node, Verdict: flows.Allowed, Event: flows.Began, Source: source, Destination: destination,
		DestinationNames: namesOf(o.Resolutions, &source, &destination),
		Protocol:         ProtocolName(e.Protocol), SampledOf: e.SampledOf,
	}
	if e.Original.Dst != e.Reply.Src {
		flow.Asked = &flows.Asked{IP: e.Original.Dst.Addr(), Port: e.Original.Dst.Port()}
	}
	if e.Protocol == packet.ICMP || e.Protocol == packet.ICMPv6 {
		icmpType, icmpCode := e.ICMPType, e.ICMPCode
		flow.ICMPType, flow.ICMPCode = &icmpType, &icmpCode
	}
	if e.Ended {
		flow.Event = flows.Ended
		flow.Packets, flow.Bytes = e.OriginalCounts.Packets+e.ReplyCounts.Packets, e.OriginalCounts.Bytes+e.ReplyCounts.Bytes
		o.Tell(&flow)
		return
	}
	var by []ruleset.Decided
	if !e.Announced { // such a connection was not judged
		by = o.AllowedBy(e.Hook, e.First())
	}
	if len(by) == 0 {
		o.Tell(&flow)
		return
	}
	for _, rule := range by {
		judged := flow
		judged.Direction, judged.Policies = rule.FlowDirection(), []flows.Policy{rule.FlowPolicy()}
		if rule.Merged != "" {
			judged.Text = fmt.Sprintf("allowed by one of the %s rules %s of %s", rule.Direction, rule.Merged, rule.Policy.Name)
		}
		o.Tell(&judged)
	}
}

// ProtocolName is a protocol as flows.Flow has it.
func ProtocolName(p packet.Protocol) string {
	switch p {
	case packet.TCP, packet.UDP, packet.SCTP, packet.ICMP, packet.ICMPv6:
		return p.String()
	}
	return strconv.Itoa(int(p))
}
