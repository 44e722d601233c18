package enforcer

import (
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Outcome is something that has come of the changes that were fed, or of what others did to
// the tables. It is a value: one of Started, Transacted, Committed, Settled, Failed, Mismatched,
// Quarantined, OverBudget, Tampered, Repaired, Revoked, Rehearsed, WouldRevoke and Troubled. The enforcer itself neither
// logs nor counts: whoever reports it, reads it here.
type Outcome interface{ outcome() }

// Started says that all there was at the start has been fed, and commits begin.
type Started struct{}

// Transacted is one transaction with the policies' table that was sent to the kernel.
type Transacted struct {
	// Operations is how many changes it had, and Took the time to work them out and to have the
	// kernel carry them out.
	Operations int
	Took       time.Duration
	// Err is why it has failed, which left the table as it was; nil if it has not.
	Err error
}

// Committed says that the policies' table in the kernel is as the model was at one moment. Each
// follows the one before. So whoever applies the deltas, and begins anew with each intent, knows
// what is in force.
type Committed struct {
	// Fed is how many times changes had been fed when it was taken out of the model: all that Feed has
	// returned no higher number for is in force, but for what is handed out bit by bit.
	Fed uint64
	// Intent is all that is enforced, but for the members of peers and named ports, if the table
	// was built anew. Otherwise it is nil, and Delta is what has changed.
	Intent *policy.Intent
	Delta  policy.Delta
	// Operations is how many changes the kernel has made; 0 where none were necessary.
	Operations int
	// Replaced: the table was replaced, because it was built anew, or because somebody else had
	// changed it.
	Replaced bool
	// Elements is how many elements all sets and maps of the table have. RefusedAddrs are the
	// addresses of this node and its ranges that other nodes' pods show. Both are set only if the
	// table was replaced.
	Elements     int
	RefusedAddrs []netip.Addr
	Took         time.Duration
}

// Settled says that all tables are up to date with what was fed.
type Settled struct {
	// Size is that of the policies' table.
	Size ruleset.Size
	// Quarantined and OverBudget are how many policies allow nothing, because the kernel refuses
	// their rules and because a budget has no room for them.
	Quarantined, OverBudget int
}

// Failed says that a commit has failed: the kernel keeps the tables that it has, and the next
// try is after RetryAfter.
type Failed struct {
	Err        error
	RetryAfter time.Duration
}

// Mismatched says that the kernel has refused a change with Err, but then has taken the whole table
// anew: the table was not as podfence had left it.
type Mismatched struct{ Err error }

// Quarantined says of which policies the kernel refuses the rules. They allow nothing until they
// are changed.
type Quarantined struct {
	// Refused are those policies, in order, and Err what the kernel says of the first.
	Refused []policy.Key
	Err     error
	// Untried are policies that are quarantined until there is time to try them. Released are
	// those that are quarantined no longer.
	Untried, Released []policy.Key
	// Trials is how many transactions it took to find out.
	Trials int
	Took   time.Duration
}

// OverBudget says which policies a budget has quarantined, and which it has released or have
// changed since.
type OverBudget struct{ Quarantined, Released []policy.Key }

// Tampered says that somebody else has changed a table. It is repaired after Pause, which is zero
// at first, and longer and longer in a fight (see repairs.go).
type Tampered struct {
	nft.Tampering
	// InARow is how many times that has happened without a quiet time between.
	InARow int
	Pause  time.Duration
}

// Repaired says that the tables are again as they should be, After the tampering was noticed.
type Repaired struct{ After time.Duration }

// Revoked says what has become of established flows that were judged again.
type Revoked struct {
	// Revoked flows are cut, Restored ones go on again.
	Revoked, Restored int
	// Denied says by whom flows are denied that were not denied before, the most frequent first.
	Denied []Denial
}

// Denial says by whom how many flows are denied: "egress of shop/web-0, by shop/deny".
type Denial struct {
	By    string
	Flows int
}

// Rehearsed says for how many staged policies, about how many pods of the node, the kernel works out what they
// would do.
type Rehearsed struct{ Policies, Pods int }

// WouldRevoke says how many established flows pass that would be cut with the staged policies in force, of the pods that
// a policy has come to be staged for.
type WouldRevoke struct{ Flows int }

// Troubled says that something beside the commits has failed, and is tried again.
type Troubled struct {
	// What was to be done, as in "Cannot judge all established flows; trying again".
	What string
	Err  error
	// Addresses is how many addresses it is about; zero: that does not count.
	Addresses int
	// RetryAfter is when it is tried again; zero: soon.
	RetryAfter time.Duration
}

func (Started) outcome()     {}
func (Transacted) outcome()  {}
func (Committed) outcome()   {}
func (Settled) outcome()     {}
func (Failed) outcome()      {}
func (Mismatched) outcome()  {}
func (Quarantined) outcome() {}
func (OverBudget) outcome()  {}
func (Tampered) outcome()    {}
func (Repaired) outcome()    {}
func (Revoked) outcome()     {}
func (Rehearsed) outcome()   {}
func (WouldRevoke) outcome() {}
func (Troubled) outcome()    {}
