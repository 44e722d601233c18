package install_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/install"
)

// FuzzChain: whatever another network's configuration says, chaining to it
// neither panics nor loses any of it: the other plugins are all there, in their
// order, then podfence's, once. Chaining again changes nothing.
func FuzzChain(f *testing.F) {
	for _, text := range []string{
		`{"cniVersion":"1.0.0","name":"flannel","plugins":[{"type":"flannel","delegate":{"a":[1,2.50,1e3]}},{"type":"portmap"}]}`,
		`{"plugins":[{"type":"podfence","mode":"chained"},{"type":"a"},{"type":"podfence"}]}`,
		`{"plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`, `{"plugins":[{"Type":"podfence"},{"type":null},null,7]}`,
		`{"plugins":null}`, `{"plugins":{}}`, `null`, `[]`, `{}`, ``, `{"plugins":[{"type":"<&>\u2028\ud800"}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, conflist []byte) {
		chained, err := install.Chain(conflist, install.Conf{MTU: 1400})
		if err != nil {
			return
		}
		before, after := pluginsOf(conflist, false), pluginsOf(chained, true)
		if len(after) == 0 {
			t.Fatalf("%s has no plugins", chained)
		}
		last := after[len(after)-1]
		if last["type"] != install.Plugin || last["mode"] != "chained" {
			t.Errorf("the last plugin of %s is another", chained)
		}
		left := after[:len(after)-1]
		for _, p := range before {
			at := slices.IndexFunc(left, func(q map[string]any) bool { return reflect.DeepEqual(p, q) })
			if at < 0 {
				t.Fatalf("of %s is left %s: %v is missing, or in another place", conflist, chained, p)
			}
			left = left[at+1:]
		}
		again, err := install.Chain(chained, install.Conf{MTU: 1400})
		if err != nil || string(again) != string(chained) {
			t.Errorf("chained again, %s is %s (%v)", chained, again, err)
		}
	})
}

// pluginsOf are a configuration's plugins, all or without those that may be
// podfence's.
func pluginsOf(conflist []byte, every bool) (plugins []map[string]any) {
	var list map[string]json.RawMessage
	var all []map[string]any
	if json.Unmarshal(conflist, &list) != nil || json.Unmarshal(list["plugins"], &all) != nil {
		return nil
	}
	for _, p := range all {
		own := false
		for key, value := range p {
			own = own || strings.EqualFold(key, "type") && value == install.Plugin
		}
		if !own || every {
			plugins = append(plugins, p)
		}
	}
	return plugins
}
