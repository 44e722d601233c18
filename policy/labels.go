package policy

import (
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"unique"

	"k8s.io/apimachinery/pkg/labels"
)

// Labels are a pod's labels. They are compared by ==, and held once however many
// pods have the same: most of a cluster's pods are replicas. The zero value is
// no labels.
type Labels struct{ encoded unique.Handle[string] }

var _ labels.Labels = Labels{}

// LabelsOf reads labels.
func LabelsOf(set map[string]string) Labels {
	if len(set) == 0 {
		return Labels{}
	}
	// Key, value, key, value, sorted by key, each behind its length.
	var encoded []byte
	for _, key := range slices.Sorted(maps.Keys(set)) {
		for _, text := range [...]string{key, set[key]} {
			encoded = append(binary.AppendUvarint(encoded, uint64(len(text))), text...)
		}
	}
	return Labels{unique.Make(string(encoded))}
}

// All are the labels in the order of their keys.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if l == (Labels{}) {
			return
		}
		remaining := l.encoded.Value()
		for remaining != "" {
			var key, value string
			key, remaining = cutText(remaining)
			value, remaining = cutText(remaining)
			if !yield(key, value) {
				return
			}
		}
	}
}

// cutText takes the first text off an encoding that LabelsOf has made.
func cutText(encoded string) (text, remaining string) {
	// The length is read here because binary.Uvarint wants bytes: that would be a copy for each label.
	var length, shift uint
	for i := 0; ; i++ {
		length |= uint(encoded[i]&0x7f) << shift
		if encoded[i] < 0x80 {
			encoded = encoded[i+1:]
			return encoded[:length], encoded[length:]
		}
		shift += 7
	}
}

// Lookup returns a label's value, and whether there is that label. With Has and
// Get it is what selectors ask (labels.Labels).
func (l Labels) Lookup(label string) (value string, exists bool) {
	for key, value := range l.All() {
		if key == label {
			return value, true
		}
	}
	return "", false
}

// Has reports whether there is a label of that key.
func (l Labels) Has(label string) bool {
	_, exists := l.Lookup(label)
	return exists
}

// Get returns the value of a label, or "" if there is none of that key.
func (l Labels) Get(label string) string {
	value, _ := l.Lookup(label)
	return value
}
