package policy_test

import (
	"fmt"
	"maps"
	"math/rand"
	"reflect"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
)

// Labels read from a map must be that map to whoever asks, and equal if and
// only if the maps are.
func TestLabels(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	// Lengths on both sides of where the encoding of one takes a second byte, and
	// texts that could be taken for it.
	texts := []string{"", "a", "b", "app", "\x01a", "\x00", "a\x01b", strings.Repeat("x", 127), strings.Repeat("x", 128), strings.Repeat("\x80", 300)}
	random := func() map[string]string {
		set := map[string]string{}
		for range r.Intn(4) {
			set[texts[r.Intn(len(texts))]] = texts[r.Intn(len(texts))]
		}
		return set
	}
	same := 0
	for range 20_000 {
		a, b := random(), random()
		of := policy.LabelsOf(a)
		if got := maps.Collect(of.All()); !maps.Equal(got, a) {
			t.Fatalf("%q is read as %q", a, got)
		}
		for _, key := range texts {
			want, there := a[key]
			if got, has := of.Lookup(key); got != want || has != there || of.Has(key) != there || of.Get(key) != want {
				t.Fatalf("%q has %q: %q, %t", a, key, got, has)
			}
		}
		if equal := of == policy.LabelsOf(b); equal != reflect.DeepEqual(a, b) {
			t.Fatalf("%q and %q are equal: %t", a, b, equal)
		} else if equal {
			same++
		}
	}
	if same == 0 || (policy.Labels{}) != policy.LabelsOf(nil) {
		t.Errorf("%d pairs were equal", same)
	}
}

// TestLabelsOrder: a map's labels are the same value however often, and so in
// whatever order, they are read.
func TestLabelsOrder(t *testing.T) {
	set := map[string]string{}
	for i := range 12 {
		set[fmt.Sprintf("key-%d", i)] = fmt.Sprint("value-", i)
	}
	want := policy.LabelsOf(set)
	for range 200 { // each goes through the map from another place
		if again := policy.LabelsOf(maps.Clone(set)); again != want {
			t.Fatalf("%v and %v are not equal", maps.Collect(again.All()), maps.Collect(want.All()))
		}
	}
}
