package cli

import (
	"testing"
	"testing/fstest"

	"github.com/podfence/podfence/ruleset"
)

func TestFragmentMemory(t *testing.T) {
	settings := fstest.MapFS{
		"net/ipv4/ipfrag_high_thresh":                  {Data: []byte("134217728\n")},
		"net/ipv4/ipfrag_time":                         {Data: []byte("3\n")},
		"net/netfilter/nf_conntrack_frag6_high_thresh": {Data: []byte("much\n")},
	}
	want := ruleset.FragmentMemory{V4: ruleset.Waiting{Octets: 128 << 20, Seconds: 3}}
	if have := fragmentMemory(settings); have != want {
		t.Errorf("have %+v, want %+v", have, want)
	}
}
