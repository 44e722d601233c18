package enforcer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

const (
	// searchTime is how long a search may keep all else waiting.
	searchTime = 5 * time.Second
	// searchPause is how long after an unfinished search the next one goes on with it.
	searchPause = 5 * time.Second
)

// exclude finds the policies because of which the kernel refuses the table, quarantines them, and
// reports whether there are any. If it returns an error, it has quarantined nothing.
func (l *loop) exclude() (found bool, err error) {
	return l.searchAmong(policy.Intent.WithRules)
}

// resumeSearch continues a search that ran out of time.
func (l *loop) resumeSearch() error {
	untried := l.untried
	if len(untried) == 0 { // another search has finished it
		return nil
	}
	_, err := l.searchAmong(func(policy.Intent) []policy.Key { return untried })
	return err
}

// searchAmong tries the suspected policies, by transactions that the kernel undoes, and
// quarantines the ones that the kernel refuses. It also quarantines the ones that it had no time
// to try. The policies that an earlier search had no time for are released first. The next commit
// builds the table anew.
func (l *loop) searchAmong(suspects func(policy.Intent) []policy.Key) (found bool, err error) {
	began := time.Now()
	l.trust = unknown // the intent takes the changes out of the model: no delta will have them
	released := l.untried
	intent := l.inbox.release(released)
	l.untried = nil
	s := newSearch(intent, l.options, l.kernel.Check, began.Add(searchTime))
	f, err := s.among(stillIn(intent, suspects(intent)))
	switch {
	case err != nil:
		err = fmt.Errorf("looking for the policy to blame: %w", err)
	case f.Nobody != nil:
		err = fmt.Errorf("no policy is to blame, without the rules of any it is refused too: %w", f.Nobody)
	}
	if err != nil {
		l.report(Quarantined{Released: released})
		return false, err
	}
	l.untried = f.Untried
	reasons := map[policy.Key]string{}
	for key, why := range f.Refused {
		reasons[key] = fmt.Sprintf("the kernel refuses it: %v: the policy allows nothing until it is changed", why)
	}
	for _, key := range f.Untried {
		reasons[key] = "the kernel refuses this policy or another: it allows nothing until that is known"
	}
	l.inbox.quarantine(intent, reasons)
	out := Quarantined{
		Refused: slices.SortedFunc(maps.Keys(f.Refused), compareKey), Untried: f.Untried,
		Released: slices.DeleteFunc(slices.Clone(released), func(key policy.Key) bool { return reasons[key] != "" }),
		Trials:   s.Trials, Took: time.Since(began),
	}
	if len(out.Refused) > 0 {
		out.Err = f.Refused[out.Refused[0]]
	}
	l.report(out)
	return len(reasons) > 0, nil
}

// stillIn returns the keys whose policies the intent still has. Other policies may have been deleted
// since the last search.
func stillIn(in policy.Intent, keys []policy.Key) []policy.Key {
	return slices.DeleteFunc(slices.Clone(keys), func(key policy.Key) bool {
		_, has := in.Policies[key]
		return !has
	})
}

func compareKey(a, b policy.Key) int { return strings.Compare(a.String(), b.String()) }

// refused reports whether an error says that the kernel refuses the table, and not that something
// else has failed.
func refused(err error) bool {
	var refusal *nft.Refusal
	return errors.As(err, &refusal)
}
