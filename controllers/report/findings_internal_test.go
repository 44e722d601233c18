package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/explain/lint"
)

// looking is a Findings whose Events all wait, with what it logs.
type looking struct {
	*Findings
	lines []string
}

func newLooking() *looking {
	l := &looking{}
	log := funcr.New(func(_, args string) { l.lines = append(l.lines, args) }, funcr.Options{})
	l.Findings = newFindings(newEvents(&creating{}, "node", logr.Discard(), newMetrics(prometheus.NewRegistry())), Options{Log: log})
	return l
}

// waiting are the messages of the Events that are to be created, in order.
func (l *looking) waiting() (messages []string) {
	l.events.mu.Lock()
	defer l.events.mu.Unlock()
	for _, event := range l.events.waiting {
		messages = append(messages, event.InvolvedObject.Name+" "+event.Reason+" "+event.Message)
	}
	slices.Sort(messages)
	return messages
}

func linted(name string, generation int64, message string, paths ...string) Linted {
	one := Linted{Object: &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Generation: generation}}}
	for _, path := range paths {
		one.Findings = append(one.Findings, lint.Finding{Rule: lint.SelectsNothing, Severity: lint.Warning, Path: path, Message: message})
	}
	return one
}

// TestFindingsLast: what is found is reported once it has been found for a minute at each look, once, and
// again if the policy or the fields are others.
func TestFindingsLast(t *testing.T) {
	l := newLooking()
	at := func(seconds int) time.Time { return time.Unix(int64(1_000_000+seconds), 0) }
	const said = "web MatchesNothing spec.podSelector: 3 pods [selects-nothing]"
	for _, step := range []struct {
		seconds int
		found   []Linted
		want    []string
	}{
		{0, []Linted{linted("web", 1, "1 pod", "spec.podSelector")}, nil},
		{30, []Linted{linted("web", 1, "2 pods", "spec.podSelector")}, nil},
		{59, nil, nil}, // a rollout is over: from here on anew
		{60, []Linted{linted("web", 1, "1 pod", "spec.podSelector")}, nil},
		{119, []Linted{linted("web", 1, "1 pod", "spec.podSelector")}, nil},
		{120, []Linted{linted("web", 1, "3 pods", "spec.podSelector")}, []string{said}},
		{150, []Linted{linted("web", 1, "4 pods", "spec.podSelector")}, []string{said}},
		{180, []Linted{linted("web", 2, "4 pods", "spec.podSelector")}, nil}, // as written now, it is news
		{240, []Linted{linted("web", 2, "4 pods", "spec.podSelector")}, []string{"web MatchesNothing spec.podSelector: 4 pods [selects-nothing]"}},
		{270, []Linted{linted("web", 2, "x", "spec.podSelector", "spec.ingress")}, nil},
		{330, []Linted{linted("web", 2, "x", "spec.podSelector", "spec.ingress")}, []string{"web MatchesNothing spec.podSelector: x [selects-nothing]; spec.ingress: x [selects-nothing]"}},
		{360, nil, nil}, // mended, before the Event was created
	} {
		if l.Looked(at(step.seconds), step.found); !slices.Equal(l.waiting(), step.want) {
			t.Errorf("after %d s these Events wait: %q, want %q", step.seconds, l.waiting(), step.want)
		}
	}
	if len(l.lines) != 3 || !strings.Contains(l.lines[0], `"networkPolicy"="shop/web"`) {
		t.Errorf("the log says %q", l.lines)
	}
}

// TestFindingsAreOneEvent: agents that count other pods say the same, in an Event of the same name.
func TestFindingsAreOneEvent(t *testing.T) {
	names := map[string]bool{}
	for _, message := range []string{"1 pod", "2 pods"} {
		l := newLooking()
		for _, seconds := range []int64{0, 60} {
			l.Looked(time.Unix(seconds, 0), []Linted{linted("web", 1, message, "spec.podSelector")})
		}
		for name := range l.events.waiting {
			names[name.String()] = true
		}
	}
	if len(names) != 1 {
		t.Errorf("two agents have Events %v", names)
	}
}

// TestFindingsAreBounded: of thousands of policies, some are reported at each look, and each in the end.
func TestFindingsAreBounded(t *testing.T) {
	l := newLooking()
	var found []Linted
	for i := range 2*mostFindings + 1 {
		found = append(found, linted(fmt.Sprintf("policy-%d", i), 1, "x", "spec.podSelector"))
	}
	for i, want := range []int{0, mostFindings, 2 * mostFindings, 2*mostFindings + 1, 2*mostFindings + 1} {
		if l.Looked(time.Unix(int64(60*i), 0), found); len(l.waiting()) != want {
			t.Errorf("after look %d, %d Events wait, want %d", i, len(l.waiting()), want)
		}
	}
}
