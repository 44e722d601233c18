package ui

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/podfence/podfence/explain"
)

// explanation is what GET api/explain answers.
type explanation struct {
	Explanation *explain.Explanation `json:"explanation"`
	// Text is what kubectl podfence explain prints.
	Text string `json:"text"`
	// Policies are those that were asked, with the rules that decided.
	Policies []markedPolicy `json:"policies"`
}

// markedPolicy is a policy in which lines are marked.
type markedPolicy struct {
	policyText
	Lines []marked `json:"lines"`
}

// marked is a range of lines, from 1, both included.
type marked struct {
	From int `json:"from"`
	To   int `json:"to"`
	// How is what the lines do: "allows", "denies", "passes" (a rule hands on to the next tier), "isolates" (they say
	// that what no rule allows is denied) or "misses" (they nearly allowed it).
	How string `json:"how"`
}

// mostMarked is how many policies are shown with an explanation.
const mostMarked = 20

// explainPair is GET api/explain: ?from=WHAT&to=WHAT, each a target or what a map calls a node, and ?port=5432/TCP.
func explainPair(m *moment, r *http.Request) (any, error) {
	values := r.URL.Query()
	from, to := values.Get("from"), values.Get("to")
	if from == "" || to == "" {
		return nil, errors.New("say from whom to whom, by from and to")
	}
	if target, is := m.atlas.Ask(from); is {
		from = target.String()
	}
	if target, is := m.atlas.Ask(to); is {
		to = target.String()
	}
	if port := values.Get("port"); port != "" {
		if strings.Count(to, ":") > 1 && !strings.HasPrefix(to, "[") { // an address of IPv6
			to = "[" + to + "]"
		}
		to += ":" + port
	}
	question, err := explain.ParseQuestion(from, to, "default")
	if err != nil {
		return nil, err
	}
	e, err := m.Explainer.Explain(question)
	if err != nil {
		return nil, err
	}
	m.Complete(e)
	var text strings.Builder
	if err := e.WriteText(&text, explain.Plain); err != nil {
		return nil, err
	}
	return explanation{e, text.String(), m.marked(e)}, nil
}

// marked are the policies of an explanation, those with a rule that decided or nearly did before the others.
func (m *moment) marked(e *explain.Explanation) []markedPolicy {
	all := []markedPolicy{}
	mark := func(ref explain.PolicyRef, how string, paths ...string) {
		at := slices.IndexFunc(all, func(p markedPolicy) bool { return p.is(ref.Kind, ref.Namespace, ref.Name) })
		if at < 0 {
			i := slices.IndexFunc(m.policies, func(p policyText) bool { return p.is(ref.Kind, ref.Namespace, ref.Name) })
			if i < 0 || len(all) >= mostMarked {
				return
			}
			at = len(all)
			text := m.policies[i]
			text.YAML = text.yaml()
			all = append(all, markedPolicy{policyText: text, Lines: []marked{}})
		}
		for _, path := range paths {
			if from, to, is := all[at].lines(path); is && !slices.Contains(all[at].Lines, marked{from, to, how}) {
				all[at].Lines = append(all[at].Lines, marked{from, to, how})
			}
		}
	}
	sides := func(each func(explain.Side)) {
		for _, a := range e.Answers {
			each(a.Egress)
			each(a.Ingress)
		}
	}
	sides(func(s explain.Side) {
		for _, rule := range s.Rules {
			how := map[string]string{"Deny": "denies", "Pass": "passes"}[rule.Action]
			if how == "" {
				how = "allows"
			}
			mark(rule.Policy, how, rule.Path)
			if rule.PortPath != "" {
				mark(rule.Policy, how, rule.PortPath)
			}
		}
		for _, miss := range s.NearestMisses {
			for _, failed := range miss.Failed {
				mark(miss.Rule.Policy, "misses", failed.Path)
			}
		}
	})
	sides(func(s explain.Side) {
		for _, p := range s.Policies {
			if s.Verdict == explain.Denied && p.Kind == "NetworkPolicy" && len(s.Rules) == 0 {
				mark(p, "isolates", "spec.podSelector", "spec.policyTypes")
			} else {
				mark(p, "")
			}
		}
	})
	for i := range all {
		slices.SortFunc(all[i].Lines, func(a, b marked) int { return a.From - b.From })
	}
	return all
}
