package kernel

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// A set of ranges is searched by a structure that the kernel makes anew for a transaction, and puts in place
// of the old one only at the very end (nft_set_commit_update in net/netfilter/nf_tables_api.c, for
// nft_set_pipapo; of newer kernels for nft_set_rbtree, too). The rules of that transaction are in force before
// that, by as much as the kernel takes to go through the whole of it, which is milliseconds for a large one.
// In that time a new set of ranges has nothing in it: what it would allow is denied, and what it would deny
// passes. So an update has its new sets of ranges in a transaction of their own, before the rules that look them
// up, and a table is replaced under cover if it would open for that time.

// ahead divides a plan's messages: first are those for new sets of ranges, and last all others. A table must
// be there for them.
func ahead(messages []message, ops []nft.Op) (first, last []message) {
	made := map[string]bool{}
	for _, op := range ops {
		if op, is := op.(nft.AddSet); is && op.Type.Interval() {
			made[op.Name] = true
		}
	}
	if len(made) == 0 {
		return nil, messages
	}
	for _, m := range messages {
		if m.op >= 0 && made[setOfRanges(ops[m.op])] {
			first = append(first, m)
		} else {
			last = append(last, m)
		}
	}
	return first, last
}

// setOfRanges is the set of ranges that an operation makes, or puts elements into; empty if it does not.
func setOfRanges(op nft.Op) string {
	switch op := op.(type) {
	case nft.AddSet:
		if op.Type.Interval() {
			return op.Name
		}
	case nft.AddElements:
		if op.Type.Interval() {
			return op.Set
		}
	}
	return ""
}

// opens reports whether a replacement in place would open something: whether a rule of it that does not accept
// looks something up in a new set of ranges. Such a table is replaced under cover (slices.go).
//
// Sets of ranges of ports are nft_set_pipapo's, of any kernel. Those of addresses are nft_set_rbtree's, whose
// elements are in force as soon as the rules; until Linux 7.0, which has it search an array that is made anew
// (commit 7e43e0a1141d). late says that the kernel is that new.
func opens(plan nft.Plan, late bool) bool {
	comesLate := map[string]bool{}
	for _, op := range plan.Ops {
		if op, is := op.(nft.AddSet); is && op.Type.Interval() && (late || op.Type.Concatenated()) {
			comesLate[op.Name] = true
		}
	}
	for _, op := range plan.Ops {
		set, is := op.(nft.SetRules)
		if !is {
			continue
		}
		for _, rule := range set.Rules {
			if rule.Verdict.Action != nft.Accept && slices.ContainsFunc(rule.Matches, func(m nft.Match) bool {
				lookup, is := m.(nft.Lookup)
				return is && comesLate[lookup.Set]
			}) {
				return true
			}
		}
	}
	return false
}

// isLate reports whether a release of Linux has nft_set_rbtree search an array. Of one that cannot be read it is
// taken for granted, as of those right before, and of those of enterprise distributions, which bring what is
// newer to kernels with old numbers.
func isLate(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return true
	}
	return major > 6 || major == 6 && minor > 18 || strings.Contains(release, ".el")
}

// release is that of the kernel that runs.
func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
