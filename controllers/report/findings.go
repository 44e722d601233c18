package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
)

// ReasonMatchesNothing is the reason of the Warning Event on a NetworkPolicy or a ClusterNetworkPolicy
// that has a selector, a named port or an ipBlock which means nobody, while somebody else is probably
// meant.
const ReasonMatchesNothing = "MatchesNothing"

const (
	// lasting is for how long something must have been found at each look before it is reported: during
	// a rollout, a selector may mean nobody for a moment.
	lasting = time.Minute
	// mostFindings is of how many policies findings are reported at one look. The others' are at the
	// next ones: where labels of many pods change at once, thousands may be wrong.
	mostFindings = 100
)

// Findings reports what policies say and cannot mean, once it has been so for a minute. Its methods must
// not be called concurrently: there is one goroutine that looks.
type Findings struct {
	events *Events
	log    logr.Logger
	known  map[policy.Key]finding
}

// Linted is a policy in which something was found, as it was when it was looked at.
type Linted struct {
	Object client.Object
	// Findings are at least one.
	Findings []lint.Finding
}

// finding is what was found in a policy at the last look.
type finding struct {
	// identity is made of the policy as it is written and of the fields: another number of pods in a
	// message is no news.
	identity string
	since    time.Time
	// event is nil until it is reported.
	event *corev1.Event
}

func newFindings(events *Events, o Options) *Findings {
	return &Findings{events: events, log: o.Log, known: map[policy.Key]finding{}}
}

// Looked takes in what was found at one look in all policies that were looked at. What has been found
// for a minute is reported, in the log and in a Warning Event; Looked never waits. Every agent that
// looks finds the same, so the Event's name is made of the policy and the fields: one agent creates it,
// and the others find that it exists. If something is not found any more, its Event is taken back if it
// has not been created yet. One that is there stays until the API server forgets it, as other Events do.
func (f *Findings) Looked(now time.Time, found []Linted) {
	still := map[policy.Key]bool{}
	for _, one := range found {
		still[client.ObjectKeyFromObject(one.Object)] = true
	}
	for key := range f.known {
		if !still[key] {
			f.forget(key)
		}
	}
	reported := 0
	for _, one := range found {
		if f.look(now, one, reported < mostFindings) {
			reported++
		}
	}
}

// look takes in what was found in one policy, and says so if it is time and there is room. It returns
// whether it did.
func (f *Findings) look(now time.Time, one Linted, room bool) (reported bool) {
	key := client.ObjectKeyFromObject(one.Object)
	identity := identityOf(one)
	was, known := f.known[key]
	if !known || was.identity != identity {
		f.forget(key)
		was = finding{identity: identity, since: now}
		f.known[key] = was
	}
	if was.event != nil || !room || now.Sub(was.since) < lasting {
		return false
	}
	about, message := aboutPolicy(one.Object), foundIn(one.Findings)
	warn(f.log, about.Kind+" has a part that means nobody, and somebody else is probably meant", append(named(key), "findings", message)...)
	was.event = f.events.Warning(about, ReasonMatchesNothing, identity, message)
	f.known[key] = was
	f.events.Create(was.event)
	return true
}

// forget takes back what was reported of a policy.
func (f *Findings) forget(key policy.Key) {
	if was := f.known[key]; was.event != nil {
		f.events.Drop(was.event)
	}
	delete(f.known, key)
}

// identityOf is what makes the same findings of the same policy one.
func identityOf(one Linted) string {
	parts := []string{ReasonMatchesNothing, string(one.Object.GetUID()), fmt.Sprint(one.Object.GetGeneration())}
	for _, of := range one.Findings {
		parts = append(parts, of.Path, string(of.Rule))
	}
	return strings.Join(parts, " ")
}

// foundIn are findings in one text.
func foundIn(findings []lint.Finding) string {
	var texts []string
	for _, of := range findings {
		texts = append(texts, fmt.Sprintf("%s: %s [%s]", of.Path, of.Message, of.Rule))
	}
	return strings.Join(Short(texts), "; ")
}
