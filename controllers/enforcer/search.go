package enforcer

import (
	"errors"
	"slices"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// search finds the policies for which the kernel refuses a table. It does so by trials, which change
// nothing in the kernel: tables in which some of the policies are closed.
type search struct {
	intent  policy.Intent
	options ruleset.Options
	check   func(nft.Plan) error
	// until is when to stop, as soon as something is found out.
	until time.Time

	// Trials is how many there were.
	Trials int
}

// newSearch returns a search that stops at a time.
func newSearch(intent policy.Intent, options ruleset.Options, check func(nft.Plan) error, until time.Time) *search {
	return &search{intent: intent, options: options, check: check, until: until}
}

// found is the result of a search. The kernel takes all policies together that are in neither list.
type found struct {
	// Nobody is what the kernel says of the table with all suspects closed, if it refuses that too:
	// then no policy is to blame.
	Nobody error
	// Refused are the policies that are to blame, with what the kernel says.
	Refused map[policy.Key]error
	// Untried are the policies that there was no time to try.
	Untried []policy.Key
}

// among searches the suspects, which are the policies that may be to blame. It takes all others to
// be in order. If it returns an error, a trial has failed for another reason than a refusal, and
// nothing is known.
//
// What the kernel says often names the policy, and then one trial shows that the others are in
// order. Otherwise the group that it refuses is halved, and each half is tried: of n policies, k are
// found in the order of k log n trials. A group is tried together with the policies that are in
// order already. So if two policies are refused only together, the later one is blamed.
func (s *search) among(suspects []policy.Key) (f found, err error) {
	f.Refused = map[policy.Key]error{}
	closed := map[policy.Key]struct{}{}
	for _, key := range suspects {
		closed[key] = struct{}{}
	}
	if _, refused, err := s.try(closed); refused != nil || err != nil {
		f.Nobody = refused
		return f, err
	}
	groups := [][]policy.Key{suspects}
	for progress := false; len(groups) > 0; {
		if progress && time.Now().After(s.until) {
			f.Untried = slices.Concat(groups...)
			return f, nil
		}
		group := groups[len(groups)-1]
		groups = groups[:len(groups)-1]
		for _, key := range group {
			delete(closed, key)
		}
		named, refused, err := s.try(closed)
		if err != nil {
			return found{}, err
		}
		if refused == nil {
			progress = true
			continue
		}
		for _, key := range group {
			closed[key] = struct{}{}
		}
		blamed, remaining := split(group, named)
		if len(group) == 1 {
			blamed, remaining = group, nil
		}
		for _, key := range blamed {
			f.Refused[key], progress = refused, true
		}
		switch half := len(remaining) / 2; {
		case len(blamed) == 0:
			groups = append(groups, remaining[half:], remaining[:half])
		case len(remaining) > 0:
			groups = append(groups, remaining)
		}
	}
	return f, nil
}

// split divides a group into those that are named and the others.
func split(group, named []policy.Key) (in, out []policy.Key) {
	for _, key := range group {
		if slices.Contains(named, key) {
			in = append(in, key)
		} else {
			out = append(out, key)
		}
	}
	return in, out
}

// try has the kernel check the table with some policies closed. If the kernel refuses it, try
// returns the refusal and the policies that it names. If the check fails otherwise, it returns an
// error.
func (s *search) try(closed map[policy.Key]struct{}) (named []policy.Key, refused, err error) {
	s.Trials++
	in := s.intent.Quarantine(closed)
	plan := ruleset.Build(in, s.options).Replacement()
	err = s.check(plan)
	var refusal *nft.Refusal
	if !errors.As(err, &refusal) {
		return nil, nil, err
	}
	if refusal.Op >= 0 {
		named = ruleset.Users(in, plan.Ops[refusal.Op], s.options)
	}
	return named, refusal, nil
}
