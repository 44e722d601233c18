package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

const (
	// searchTime is how long a search may keep all else waiting.
	searchTime = 5 * time.Second
	// searchPause is how long after a search that was not finished it goes on.
	searchPause = 5 * time.Second
)

// refusals is what the enforcer knows about policies that the kernel refuses. Which policies
// are closed, and why, is in the model.
type refusals struct {
	// left are the policies that are closed although it is not known yet whether the kernel
	// refuses them: the last search ran out of time. Only Start's goroutine uses it.
	left []policy.Key
	// news are the policies that have been closed or opened since announce has last looked,
	// because of a refusal or of a budget. Enforcer.mu guards it. wake holds a token while
	// news is not empty.
	news []policy.Key
	wake chan struct{}
	// events are read by the NetworkPolicy controller. Where the agent enforces a folder of
	// manifests, nobody reads them.
	events chan event.GenericEvent
}

func newRefusals() refusals {
	return refusals{wake: make(chan struct{}, 1), events: make(chan event.GenericEvent)}
}

// exclude finds the policies because of which the kernel refuses the table, closes them, and
// reports whether there are any. A closed policy isolates its pods and allows nothing until it
// changes. If exclude returns an error, it has closed nothing.
func (e *Enforcer) exclude() (found bool, err error) {
	return e.search(policy.Intent.Open)
}

// resume continues a search that ran out of time.
func (e *Enforcer) resume() error {
	left := e.refusals.left
	if len(left) == 0 { // another search has finished it
		return nil
	}
	_, err := e.search(func(policy.Intent) []policy.Key { return left })
	return err
}

// search tries the suspected policies, by transactions that the kernel undoes, and closes the
// ones that the kernel refuses. It also closes the ones that it had no time to try. The policies
// that an earlier search had no time for are opened first. The next commit must build the table
// from scratch.
func (e *Enforcer) search(suspects func(policy.Intent) []policy.Key) (found bool, err error) {
	began := time.Now()
	e.known, e.undone = false, false // Intent takes the changes along
	e.mu.Lock()
	for _, key := range e.refusals.left {
		e.model.Reopen(key)
	}
	e.tell(e.refusals.left)
	intent := e.model.Intent()
	e.mu.Unlock()
	e.refusals.left = nil
	s := &search{intent: intent, options: e.options, check: e.kernel.Check, until: began.Add(searchTime)}
	f, err := s.among(stillIn(intent, suspects(intent)))
	switch {
	case err != nil:
		return false, fmt.Errorf("looking for the policy to blame: %w", err)
	case f.nobody != nil:
		return false, fmt.Errorf("no policy is to blame, without the rules of any it is refused too: %w", f.nobody)
	}
	e.refusals.left = f.left
	refused := slices.SortedFunc(maps.Keys(f.refused), compareKey)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range refused {
		e.model.Close(intent.Policies[key], fmt.Sprintf("the kernel refuses it: %v: the policy allows nothing until it is changed", f.refused[key]))
	}
	for _, key := range f.left {
		e.model.Close(intent.Policies[key], "the kernel refuses this policy or another: it allows nothing until that is known")
	}
	e.tell(slices.Concat(refused, f.left))
	if len(refused)+len(f.left) == 0 {
		return false, nil
	}
	var why error // of the first
	names := make([]string, len(refused))
	for i, key := range slices.Backward(refused) {
		why, names[i] = f.refused[key], key.String()
	}
	e.log.Error(why, "The kernel refuses NetworkPolicies: they allow nothing until they are changed; all else is enforced",
		"networkPolicies", strings.Join(names, " "), "notKnownYet", len(f.left), "trials", s.trials, "took", time.Since(began).String())
	return true, nil
}

// tell has announce look at policies. The caller holds e.mu.
func (e *Enforcer) tell(keys []policy.Key) {
	all := slices.Concat(e.refusals.news, keys)
	slices.SortFunc(all, compareKey)
	e.refusals.news = slices.Compact(all)
	signal(e.refusals.wake)
}

// budgetAgain is how often it is tried whether there is room for policies that their
// namespace's budget has none for.
const budgetAgain = 5 * time.Minute

// tellBudget has announce look at the policies that a budget has closed or opened. The
// caller holds e.mu.
func (e *Enforcer) tellBudget() {
	news := e.model.News()
	if len(news) == 0 {
		return
	}
	e.tell(news)
	var closed, opened []string
	for _, key := range news {
		if len(e.model.Problems(key)) > 0 {
			closed = append(closed, key.String())
		} else {
			opened = append(opened, key.String())
		}
	}
	if len(closed) > 0 {
		warn(e.log, "NetworkPolicies take more of the node than their namespace may: the largest allow nothing until there is room; all else is enforced", "networkPolicies", some(closed))
	}
	if len(opened) > 0 {
		e.log.Info("There is room again for NetworkPolicies, or they have changed", "networkPolicies", some(opened))
	}
}

// some are the first of names, and how many more there are: a namespace may have
// thousands.
func some(names []string) string {
	if more := len(names) - spelledOut; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:spelledOut], " "), more)
	}
	return strings.Join(names, " ")
}

// stillIn returns those of the keys whose policies the intent still has: others may have been
// deleted since the search before.
func stillIn(in policy.Intent, keys []policy.Key) []policy.Key {
	return slices.DeleteFunc(slices.Clone(keys), func(key policy.Key) bool {
		_, has := in.Policies[key]
		return !has
	})
}

func compareKey(a, b policy.Key) int { return strings.Compare(a.String(), b.String()) }

// announce has the policies reconciled that were closed or opened, until ctx is
// done: what is wrong with them is reported from there.
func (e *Enforcer) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.refusals.wake:
		}
		e.mu.Lock()
		news := e.refusals.news
		e.refusals.news = nil
		e.mu.Unlock()
		for _, key := range news {
			about := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
			select {
			case <-ctx.Done():
				return
			case e.refusals.events <- event.GenericEvent{Object: about}:
			}
		}
	}
}

// refused reports whether an error is of a table that the kernel will not have.
func refused(err error) bool {
	var refusal *nft.Refusal
	return errors.As(err, &refusal)
}
