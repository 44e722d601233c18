package enforcer

import (
	"fmt"
	"maps"
	"sync"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// trust is what is known of a table in the kernel.
type trust uint8

const (
	// unknown: the kernel may hold anything, as before the first commit and after one that has
	// failed. The table is built anew from all that is to be enforced.
	unknown trust = iota
	// undone: somebody else has changed the kernel's table. What it should hold is known, and
	// replaces it.
	undone
	// known: the kernel holds exactly what it should.
	known
)

// table is a table, or a part of one, that the loop commits right after the policies' table and
// that follows from what was committed there.
type table struct {
	// name is what errors call it.
	name   string
	kernel Kernel
	content
	trust trust
	// within is what is known of the table that this is a part of; nil: it is a table of its own.
	within *trust
}

// content says what a table should hold.
type content interface {
	// follow takes in what was committed to the policies' table.
	follow(Committed)
	// plan returns all of the table if anew, for a kernel that may hold anything. Otherwise it
	// returns what has changed since the last plan, for a kernel that holds what that one made.
	plan(anew bool) (nft.Plan, error)
}

// newTable returns a table of which the kernel may hold anything. within is what is known of the
// table that it is a part of; nil: it is a table of its own.
func newTable(name string, kernel Kernel, c content, within *trust) *table {
	return &table{name: name, kernel: kernel, content: c, within: within}
}

// distrust lowers what is known of the table in the kernel, if more was known.
func (t *table) distrust(to trust) { t.trust = min(t.trust, to) }

// commit brings the table up to date in one transaction.
func (t *table) commit() error {
	plan, err := t.plan(t.trust != known)
	if err != nil {
		return err
	}
	t.trust = known
	if plan.Empty() {
		return nil
	}
	if err := t.kernel.Apply(plan); err != nil {
		t.trust = unknown
		if t.within != nil {
			*t.within = unknown
		}
		return fmt.Errorf("%s: %w", t.name, err)
	}
	return nil
}

// sharedTable is the policies' table as the kernel holds it, or will hold it once it takes the plan
// under way. The loop changes it, and those who judge flows ask it.
type sharedTable struct {
	mu    sync.RWMutex
	table *ruleset.Table // nil before the first commit
	// version counts the changes. settled is the version that the kernel holds with all of its parts; 0: it
	// may hold another.
	version, settled uint64
}

// put replaces the table by another.
func (s *sharedTable) put(t *ruleset.Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table = t
	s.version++
}

// change has f change the table.
func (s *sharedTable) change(f func(*ruleset.Table)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.table)
	s.version++
}

// get returns the table. It is for the loop, which alone changes the table and so needs no lock to
// read it.
func (s *sharedTable) get() *ruleset.Table { return s.table }

// settle notes that the kernel holds the table as it is. doubt notes that it may hold another.
func (s *sharedTable) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = s.version
}

func (s *sharedTable) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = 0
}

// bequeath has another table know which connections are open by answers whose time is over.
func (s *sharedTable) bequeath(to *ruleset.Table) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.table != nil {
		to.Inherit(s.table)
	}
}

// rules are the chains of the table, if the kernel holds it as it is, and its version. Nobody changes a
// chain: another takes its place.
func (s *sharedTable) rules() (chains map[string]*nft.Chain, version uint64, held bool) {
	if s == nil {
		return nil, 0, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.settled == 0 || s.settled != s.version {
		return nil, 0, false
	}
	return maps.Clone(s.table.Chains), s.version, true
}

// holds reports whether the kernel holds that version of the table.
func (s *sharedTable) holds(version uint64) bool {
	if s == nil {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.version == version && s.settled == version
}

// judge returns a judge of flows, which reports whether the table lets a new connection pass. While
// there is no table, nothing is known, and nothing is cut. Many flows usually lead from the same
// address to the same port, so the judge remembers its verdicts until the table changes. It is for
// one goroutine.
func (s *sharedTable) judge() func(nft.HookPoint, policy.Packet) bool {
	verdicts := map[judged]bool{}
	var of uint64 // the version that the verdicts are of
	return func(hook nft.HookPoint, p policy.Packet) bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.version != of || len(verdicts) >= remembered {
			clear(verdicts)
			of = s.version
		}
		flow := judged{hook, p}
		passes, known := verdicts[flow]
		if !known {
			passes = s.table == nil || s.table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New, Open: true}).Verdict == nft.Accept
			verdicts[flow] = passes
		}
		return passes
	}
}

// denied says who denies a flow, by the table as it is.
func (s *sharedTable) denied(hook nft.HookPoint, p policy.Packet) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.table == nil {
		return ""
	}
	return s.table.Denied(s.table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New, Open: true}))
}

// denialOf says why a packet was denied, by the table as it is.
func (s *sharedTable) denialOf(l nft.Logged) ruleset.Denial {
	if s == nil {
		return (*ruleset.Table)(nil).DenialOf(l)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.table.DenialOf(l)
}

// wouldTell says which chains of the table, which must be a staged one, would tell of the first packet of a flow.
func (s *sharedTable) wouldTell(hook nft.HookPoint, p policy.Packet) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.table == nil {
		return nil
	}
	return s.table.WouldTell(hook, nft.TracePacket{Packet: p, State: nft.New})
}

// wouldBe says what the table, which must be a staged one, says of a packet that was denied in a direction. Without a
// table it says nothing.
func (s *sharedTable) wouldBe(l nft.Logged, d policy.Direction) ruleset.Staged {
	if s == nil {
		return ruleset.Staged{}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.table == nil {
		return ruleset.Staged{}
	}
	return s.table.WouldBe(l, d)
}
