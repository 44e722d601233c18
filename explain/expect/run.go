package expect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/explain"
)

// Result is what has come of one question of a test.
type Result struct {
	// Suite is the name of the tests, Name that of the test with its question.
	Suite string `json:"suite"`
	Name  string `json:"name"`
	// Question is what was asked, in words.
	Question string `json:"question"`
	Passed   bool   `json:"passed"`
	// Why says in words what is not as expected; empty: all is.
	Why string `json:"why,omitempty"`
	// Explanation is the answer; nil: there is none, and Why says why not.
	Explanation *explain.Explanation `json:"explanation,omitempty"`
	// File and Line are where the test is written.
	File string `json:"file"`
	Line int    `json:"line"`
}

// Run asks all that tests expect, in their order. A name without a namespace is in the given one. A
// question that cannot be answered fails its test.
func Run(x *explain.Explainer, all []Tests, namespace string) (results []Result) {
	asIs := x
	for _, tests := range all {
		if x = asIs; tests.Resolutions != nil {
			addrs := map[string][]netip.Addr{}
			for _, r := range tests.Resolutions {
				addrs[r.Name] = append(addrs[r.Name], r.Addresses...)
			}
			x = asIs.Resolving(addrs)
		}
		for _, test := range tests.Tests {
			for _, from := range test.From {
				for _, to := range test.To {
					if len(test.Ports) == 0 {
						results = append(results, test.ask(x, tests.Name, from, to, namespace))
					}
					for _, port := range test.Ports {
						results = append(results, test.ask(x, tests.Name, from, withPort(to, port), namespace))
					}
				}
			}
		}
	}
	return results
}

// withPort is a target with a port, as people write them.
func withPort(to, port string) string {
	if strings.Count(to, ":") > 1 && !strings.HasPrefix(to, "[") { // an IPv6 address
		return "[" + to + "]:" + port
	}
	return to + ":" + port
}

// ask asks one question, and holds the answer against what is expected.
func (t *Test) ask(x *explain.Explainer, suite, from, to, namespace string) Result {
	if t.Staged {
		x = x.WithStaged()
	}
	r := Result{Suite: suite, Question: from + " to " + to, File: t.file, Line: t.line}
	q, err := explain.ParseQuestion(from, to, namespace)
	if err == nil {
		r.Question = q.String()
		r.Explanation, err = x.Explain(q)
	}
	r.Name = t.Expect + " " + r.Question
	if t.Name != "" {
		r.Name = t.Name + ": " + r.Question
	}
	if err != nil {
		r.Why = err.Error()
		return r
	}
	r.Why = t.differs(r.Explanation)
	r.Passed = r.Why == ""
	return r
}

// differs says what of an explanation is not as expected; empty: all is.
func (t *Test) differs(e *explain.Explanation) string {
	want := map[string]explain.Verdict{"allow": explain.Allowed, "deny": explain.Denied}[t.Expect]
	if len(e.Answers) == 0 {
		return "there is no answer: " + messages(e.Notes)
	}
	for _, a := range e.Answers {
		switch {
		case a.Verdict == explain.Mixed && len(a.Unknown) > 0:
			return fmt.Sprintf("%s to %s: some ports are open, and of others nobody knows before the pods have addresses", a.From, a.To)
		case a.Verdict == explain.Mixed:
			return fmt.Sprintf("%s to %s: some ports or protocols are open, and some are not", a.From, a.To)
		case a.Verdict != want:
			return fmt.Sprintf("%s to %s is %s", a.From, a.To, strings.ToLower(string(a.Verdict)))
		case len(t.By) > 0 && !slices.ContainsFunc(deciding(a), func(p string) bool { return slices.Contains(t.By, p) }):
			return fmt.Sprintf("%s to %s is %s, but by %s, and not by %s", a.From, a.To, strings.ToLower(string(a.Verdict)), orNone(deciding(a)), strings.Join(t.By, " or "))
		}
	}
	if len(e.Unanswered) > 0 {
		return "there is no answer for some of them: " + messages(e.Unanswered)
	}
	return ""
}

// messages are what notes say, in one line.
func messages(notes []explain.Note) string {
	texts := make([]string, len(notes))
	for i, note := range notes {
		texts[i] = note.Message
	}
	return strings.Join(texts, " ")
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "no policy"
	}
	return strings.Join(names, ", ")
}

// deciding are the policies that decide an answer: those of the rules that allow or deny it and, where no
// rule denies it, those that isolate the pod.
func deciding(a explain.Answer) (names []string) {
	for _, side := range []explain.Side{a.Egress, a.Ingress} {
		if side.Verdict != a.Verdict {
			continue
		}
		for _, rule := range side.Rules {
			names = append(names, name(rule.Policy))
		}
		if side.Verdict == explain.Denied && len(side.Rules) == 0 {
			for _, p := range side.Policies {
				names = append(names, name(p))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// name is a policy as By names it.
func name(p explain.PolicyRef) string {
	if p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}
