package agreement

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// staged is the table of staged policies, kept as an agent keeps it, by a model of its own.
type staged struct {
	conn  *kernel.Conn
	model *policy.Model
	table *ruleset.Table
}

// reconnect hangs up, if there is a connection, and opens a new one.
func (s *staged) reconnect(node *lab.Node) (err error) {
	if err = s.disconnect(); err == nil {
		s.conn, err = kernel.Open(kernel.Options{NetNS: node.NetNS(), Table: nft.StagedTableName})
	}
	return err
}

func (s *staged) disconnect() error {
	if s.conn == nil {
		return nil
	}
	conn := s.conn
	s.conn = nil
	return conn.Close()
}

// replace makes the table anew, of a model that is made of another one.
func (s *staged) replace(of *policy.Model, o ruleset.Options) error {
	s.model = of.NewStaged()
	s.table = ruleset.Build(s.model.Intent(), o.ForStaged())
	return s.conn.Apply(s.table.Replacement())
}

// update brings the table up to date with the model.
func (s *staged) update() error {
	for first := true; first || s.model.Pending(); first = false {
		if err := s.conn.Apply(s.table.Update(s.model.Take())); err != nil {
			return err
		}
	}
	return nil
}

// judgeInForce says whether a packet would pass with all policies in force, as judge says whether it passes. It is not
// known where what would deny it is no policy.
func (c *Cluster) judgeInForce(s policy.Snapshot, r *Result) (passes, known bool) {
	in := random.Enforced(s)
	if c.closed(in, r) != c.closed(s, r) {
		return false, false
	}
	would := *r
	c.judge(in, &would)
	return would.Judged, true
}

// checkStaged compares what the staged table has told with what it was to tell: of each flow with a packet that has
// passed, and would not have with the staged policies in force, once by each direction that would deny it; and nothing of
// others. The oracle for it is the judge that says what is denied once they are in force. Which direction it is, the
// table says itself.
func (c *Cluster) checkStaged(report Report, told []nft.Logged, took time.Duration) (compared int, err error) {
	have := map[toldFlow][]nft.Logged{}
	for _, l := range told {
		have[toldFlowOf(l.Packet.Packet)] = append(have[toldFlowOf(l.Packet.Packet)], l)
	}
	would, unclear, all := map[toldFlow]*Result{}, map[toldFlow]bool{}, map[toldFlow]*Result{}
	for _, r := range report {
		if r.Own {
			continue
		}
		key := toldFlowOf(r.Seen)
		all[key] = r
		switch {
		case r.Begun != nil: // when the flow was answered, perhaps by the host's own stack, shows here alone
			unclear[key] = true
		case r.Refused != "" || r.Seen.Dst.IsMulticast() || r.Seen.Dst == broadcast || r.Wire.Fragments == lab.LaterAlone || !r.Agree() || !r.InForceKnown:
			unclear[key] = true
		case r.Judged && !r.InForce:
			would[key] = r
		}
	}
	var errs []error
	for key, r := range all {
		n := len(have[key])
		switch {
		case unclear[key]:
			continue
		case would[key] == nil && n > 0:
			errs = append(errs, fmt.Errorf("told %d times that it would be denied, by %+v, and it would not: %s\n%+v", n, c.staged.table.DenialOf(have[key][0]), r, have[key]))
		case would[key] != nil:
			r = would[key]
			chains := map[string]int{}
			for _, l := range have[key] {
				chains[l.Prefix]++
			}
			compared++
			for _, chain := range c.staged.table.WouldTell(r.Hook, r.packet()) { // the rules of either end tell
				if chains[chain] == 0 {
					errs = append(errs, fmt.Errorf("%s has not told that it would be denied: %s; told: %v\n%s", chain, r, chains, c.staged.table.Trace(r.Hook, r.packet())))
				}
			}
			if n == 0 || len(chains) < n && took < 8*time.Second {
				errs = append(errs, fmt.Errorf("told %d times, want once by each direction, that it would be denied, by %v: %s\n%s", n, chains, r, c.staged.table.Trace(r.Hook, r.packet())))
				continue
			}
			if said := c.staged.table.DenialOf(have[key][0]); said.Direction == "" && !strings.HasPrefix(said.Text, "begins") && said.Reason != "invalid" {
				errs = append(errs, fmt.Errorf("it says %+v of what would be denied: %s", said, would[key]))
			}
		}
	}
	return compared, errors.Join(errs...)
}

// packet is the packet as a table sees it.
func (r *Result) packet() nft.TracePacket {
	return nft.TracePacket{Packet: r.Seen, State: r.State, Midstream: r.Midstream}
}
