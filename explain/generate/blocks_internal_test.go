package generate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestGroup: addresses are covered by as few networks as can be that have no others' addresses.
func TestGroup(t *testing.T) {
	for _, test := range []struct {
		addrs, taken string
		shortest     int
		want         string
	}{
		{"203.0.113.7", "", 24, "203.0.113.7/32"},
		{"203.0.113.7 203.0.113.7", "", 24, "203.0.113.7/32"},
		{"203.0.113.6 203.0.113.7", "", 24, "203.0.113.6/31"},
		{"203.0.113.6 203.0.113.7", "", 32, "203.0.113.6/32 203.0.113.7/32"},
		{"203.0.113.1 203.0.113.254", "", 24, "203.0.113.0/24"},
		{"203.0.113.1 203.0.113.254", "", 25, "203.0.113.1/32 203.0.113.254/32"},
		{"203.0.113.1 203.0.114.1", "", 24, "203.0.113.1/32 203.0.114.1/32"},
		{"203.0.113.1 203.0.114.1", "", 16, "203.0.112.0/22"},
		{"203.0.113.1 203.0.113.2 203.0.113.130", "203.0.113.129/32", 24, "203.0.113.0/30 203.0.113.130/32"},
		{"203.0.113.1 203.0.113.2 203.0.113.3", "203.0.113.0/32", 24, "203.0.113.1/32 203.0.113.2/31"},
		{"2001:db8::1 2001:db8::ff 2001:db8:0:1::1", "", 64, "2001:db8::/120 2001:db8:0:1::1/128"},
	} {
		var addrs []netip.Addr
		for _, text := range strings.Fields(test.addrs) {
			addrs = append(addrs, netip.MustParseAddr(text))
		}
		taken := func(network netip.Prefix) bool {
			return test.taken != "" && network.Overlaps(netip.MustParsePrefix(test.taken))
		}
		if got := strings.Trim(fmt.Sprint(group(addrs, test.shortest, taken)), "[]"); got != test.want {
			t.Errorf("%s, no shorter than %d, without %s: %s instead of %s", test.addrs, test.shortest, test.taken, got, test.want)
		}
	}
}
