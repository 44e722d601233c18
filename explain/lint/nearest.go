package lint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxValues is how many values a label's key may have for the nearest of them to be looked for. A key
// that has more names each pod, as statefulset.kubernetes.io/pod-name does.
const maxValues = 1000

// nameKeys are keys that manifests use for one and the same thing: what an application or a namespace is
// called.
var nameKeys = []string{"app", "k8s-app", "name", "app.kubernetes.io/name", "kubernetes.io/metadata.name"}

// near reports whether one word is probably a slip for the other, and how many letters they are apart.
// It is strict, because two names that are both right may differ by little: web-1 and web-2, team-a and
// team-b, api and app, shop-dev and shop-qa. So names that differ by digits, or by a short part among
// several, are never near, and three letters must be the same ones but for one that is missing, doubled
// or swapped.
func near(a, b string) (distance int, is bool) {
	if a == b || a == "" || b == "" || max(len(a), len(b)) > validation.DNS1123SubdomainMaxLength {
		return 0, false
	}
	if strings.EqualFold(a, b) {
		return 1, true
	}
	if siblings(a, b) {
		return 0, false
	}
	allowed := 1
	switch shorter := min(len(a), len(b)); {
	case shorter < 3:
		return 0, false
	case shorter >= 8:
		allowed = 2
	case shorter == 3 && len(a) == len(b) && !swapped(a, b):
		return 0, false
	}
	if max(len(a), len(b))-min(len(a), len(b)) > allowed {
		return 0, false
	}
	distance = edits(a, b)
	return distance, distance <= allowed
}

// siblings reports whether two names are those of two things of one kind.
func siblings(a, b string) bool {
	digitless := func(text string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsDigit(r) {
				return -1
			}
			return r
		}, text)
	}
	if digitless(a) == digitless(b) || strings.Trim(digitless(a), "-._/") == strings.Trim(digitless(b), "-._/") {
		return true
	}
	parts := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("-._/", r) })
	}
	as, bs := parts(a), parts(b)
	if len(as) != len(bs) || len(as) < 2 {
		return false
	}
	for i := range as {
		if as[i] != bs[i] && (len(as[i]) > 3 && len(bs[i]) > 3) {
			return false
		}
	}
	return true
}

// swapped reports whether two words of the same length have the same letters.
func swapped(a, b string) bool {
	return slices.Equal(slices.Sorted(slices.Values([]byte(a))), slices.Sorted(slices.Values([]byte(b))))
}

// edits is how many letters have to be put in, taken out, changed or swapped with their neighbour to
// make one word of the other (the Damerau-Levenshtein distance, without changing a letter twice).
func edits(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// nearestWord is the word that is probably meant; false: none is.
func nearestWord(word string, among []string) (string, bool) {
	best, distance := "", 0
	for _, other := range among {
		if d, is := near(word, other); is && (best == "" || d < distance || d == distance && other < best) {
			best, distance = other, d
		}
	}
	return best, best != ""
}

// labelled is something that has labels: so many pods, or one namespace or node.
type labelled struct {
	labels labels.Labels
	count  int
}

// vocabulary is which labels there are.
type vocabulary interface {
	// keys are all keys, and valuesOf the values of one.
	keys() []string
	valuesOf(key string) []string
	// with are those that have a label.
	with(l label) []labelled
}

// slip is a label that is probably meant instead of another.
type slip struct {
	wrong, right label
	distance     int
	// count is how many would be selected if the label were right.
	count int
}

// slipIn looks for the one requirement by which a selector selects nothing, and for the label that is
// probably meant instead: with it, and all else as it is, the selector would select something.
func slipIn(s selector, v vocabulary) (best slip, found bool) {
	for i, r := range s.requirements {
		value, one := soleValue(r)
		if !one {
			if r.Operator() != selection.Exists {
				continue
			}
			value = ""
		}
		rest := s.without(i)
		wrong := label{r.Key(), value}
		for _, right := range nearLabels(wrong, one, v) {
			for _, has := range v.with(right.right) {
				if rest.selects(has.labels) {
					right.count += has.count
				}
			}
			if right.count > 0 && (!found || right.before(best)) {
				best, found = right, true
			}
		}
	}
	return best, found
}

// before reports whether a slip is more probable than another: fewer letters, then more that have it.
func (s slip) before(other slip) bool {
	return cmp.Or(cmp.Compare(s.distance, other.distance), cmp.Compare(other.count, s.count),
		cmp.Compare(s.right.key, other.right.key), cmp.Compare(s.right.value, other.right.value)) < 0
}

// nearLabels are labels that may be meant instead of another. If exact is false, its value does not
// matter.
func nearLabels(wrong label, exact bool, v vocabulary) (slips []slip) {
	if values := v.valuesOf(wrong.key); exact && len(values) <= maxValues {
		for _, value := range values {
			if d, is := near(wrong.value, value); is {
				slips = append(slips, slip{wrong: wrong, right: label{wrong.key, value}, distance: d})
			}
		}
	}
	for _, key := range v.keys() {
		distance, is := near(wrong.key, key)
		if !is && exact && key != wrong.key && slices.Contains(nameKeys, key) && slices.Contains(nameKeys, wrong.key) {
			distance, is = 3, true
		}
		switch {
		case !is:
		case exact:
			slips = append(slips, slip{wrong: wrong, right: label{key, wrong.value}, distance: distance})
		default:
			for _, value := range v.valuesOf(key)[:min(len(v.valuesOf(key)), maxValues)] {
				slips = append(slips, slip{wrong: wrong, right: label{key, value}, distance: distance})
			}
		}
	}
	return slips
}

// said is the slip in words, about so many of a thing.
func (s slip) said(thing string) string {
	has := "have"
	if s.count == 1 {
		has = "has"
	}
	return fmt.Sprintf("%s %s %s=%s; did you mean that?", counted(s.count, thing), has, s.right.key, s.right.value)
}

// counted is a number and a thing: "1 pod", "3 pods".
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// podLabels are the labels of the pods of a world in the namespaces that a selector of pods means.
type podLabels struct {
	*world
	in func(namespace string) bool
}

func (v podLabels) keys() []string { return slices.Sorted(maps.Keys(v.seen.values)) }

func (v podLabels) valuesOf(key string) []string { return v.seen.values[key] }

func (v podLabels) with(l label) (all []labelled) {
	for _, of := range v.seen.byLabel[l] {
		if v.in(of.namespace) {
			all = append(all, labelled{of.labels, len(of.pods)})
		}
	}
	return all
}

// few are the labels of some namespaces or nodes.
type few []labels.Set

func (v few) keys() (keys []string) {
	for _, l := range v {
		keys = slices.AppendSeq(keys, maps.Keys(l))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func (v few) valuesOf(key string) (values []string) {
	for _, l := range v {
		if value, has := l[key]; has {
			values = append(values, value)
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

func (v few) with(l label) (all []labelled) {
	for _, has := range v {
		if value, is := has[l.key]; is && value == l.value {
			all = append(all, labelled{has, 1})
		}
	}
	return all
}
