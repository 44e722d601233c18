package lint

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// selector selects by labels. Its zero value selects all.
type selector struct {
	// text is canonical: selectors of the same text select the same.
	text         string
	requirements []labels.Requirement
}

// selectorOf reads a selector; false: it is not valid, and selects nothing.
func selectorOf(s *metav1.LabelSelector) (selector, bool) {
	read, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return selector{}, false
	}
	requirements, selectable := read.Requirements()
	return selector{text: read.String(), requirements: requirements}, selectable
}

// selects reports whether a selector selects what has these labels.
func (s selector) selects(l labels.Labels) bool {
	for i := range s.requirements {
		if !s.requirements[i].Matches(l) {
			return false
		}
	}
	return true
}

// selectsAll reports whether a selector has no requirements.
func (s selector) selectsAll() bool { return len(s.requirements) == 0 }

// without is the selector without one of its requirements.
func (s selector) without(i int) selector {
	rest := append(append([]labels.Requirement{}, s.requirements[:i]...), s.requirements[i+1:]...)
	return selector{text: labels.NewSelector().Add(rest...).String(), requirements: rest}
}

// covers reports whether a selector certainly selects all that another selects: each of its requirements
// is one of the other's too.
func (s selector) covers(other selector) bool {
	has := map[string]bool{}
	for _, r := range other.requirements {
		has[r.String()] = true
	}
	for _, r := range s.requirements {
		if !has[r.String()] {
			return false
		}
	}
	return true
}

// String is how a selector reads in messages.
func (s selector) String() string {
	texts := make([]string, len(s.requirements))
	for i, r := range s.requirements {
		texts[i] = requirementText(r)
	}
	return strings.Join(texts, " and ")
}

// requirementText is how a requirement reads in messages: "app=web", or as kubectl takes it.
func requirementText(r labels.Requirement) string {
	if value, one := soleValue(r); one {
		return r.Key() + "=" + value
	}
	return r.String()
}

// soleValue is the one value that a label must have to meet a requirement; false: there is not just one.
func soleValue(r labels.Requirement) (value string, one bool) {
	switch r.Operator() {
	case selection.Equals, selection.DoubleEquals, selection.In:
		values := r.ValuesUnsorted()
		if len(values) == 1 {
			return values[0], true
		}
	}
	return "", false
}
