package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
)

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func TestParsePrefix(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8":              "10.0.0.0/8",
		"10.1.2.3/8":              "10.0.0.0/8", // host bits
		"010.001.002.003/16":      "10.1.0.0/16",
		"::ffff:10.1.2.3/104":     "10.0.0.0/8",
		"::ffff:10.1.2.3/128":     "10.1.2.3/32",
		"::ffff:0:0/80":           "::/80", // wider than IPv4: stays IPv6
		"0.0.0.0/0":               "0.0.0.0/0",
		"::/0":                    "::/0",
		"fd00:10::1/64":           "fd00:10::/64",
		"255.255.255.255/32":      "255.255.255.255/32",
		"":                        "",
		"10.0.0.0":                "",
		"10.0.0.0/33":             "",
		"10.0.0.0/-1":             "",
		"10.0.0/8":                "",
		"10.0.0.256/32":           "",
		"fd00::/129":              "",
		"fe80::1%eth0/64":         "",
		"10.0.0.0/8 ":             "",
		"not a block, but a text": "",
	} {
		have, err := policy.ParsePrefix(text)
		if err != nil {
			if want != "" {
				t.Errorf("%q: %v, want %s", text, err, want)
			}
			continue
		}
		if have.String() != want {
			t.Errorf("%q: %s, want %s", text, have, want)
		}
	}
}

func TestSubtract(t *testing.T) {
	for _, c := range []struct {
		cidr    string
		excepts []string
		want    []string
	}{
		{"10.0.0.0/8", nil, []string{"10.0.0.0-10.255.255.255"}},
		{"10.0.0.0/30", []string{"10.0.0.1/32"}, []string{"10.0.0.0-10.0.0.0", "10.0.0.2-10.0.0.3"}},
		{"10.0.0.0/24", []string{"10.0.0.128/25", "10.0.0.128/26"}, []string{"10.0.0.0-10.0.0.127"}},
		{"10.0.0.0/24", []string{"10.0.0.0/24"}, nil},
		{"10.0.0.0/24", []string{"10.0.0.0/8"}, nil},
		{"10.0.0.0/24", []string{"10.0.1.0/24", "::/0"}, []string{"10.0.0.0-10.0.0.255"}},
		{"0.0.0.0/0", []string{"0.0.0.0/1"}, []string{"128.0.0.0-255.255.255.255"}},
		{"::/0", []string{"8000::/1"}, []string{"::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
		{"fd00::/126", []string{"fd00::1/128"}, []string{"fd00::-fd00::", "fd00::2-fd00::3"}},
	} {
		var excepts []netip.Prefix
		for _, text := range c.excepts {
			excepts = append(excepts, prefix(text))
		}
		var have []string
		for _, r := range policy.Subtract(prefix(c.cidr), excepts) {
			have = append(have, r.First.String()+"-"+r.Last.String())
		}
		if !slices.Equal(have, c.want) {
			t.Errorf("%s less %v: %v, want %v", c.cidr, c.excepts, have, c.want)
		}
	}
}

// FuzzBlocks: an address is in the union of (cidr less except) and another
// block just if it is in the one and not in its except, or in the other; and
// the ranges are disjoint and in order, and no more than there can be.
func FuzzBlocks(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0}, uint8(8), []byte{10, 1, 0, 0}, uint8(16), []byte{10, 1, 2, 0}, uint8(24), []byte{10, 1, 2, 3})
	f.Add([]byte{0, 0, 0, 0}, uint8(0), []byte{255, 255, 255, 255}, uint8(32), []byte{0, 0, 0, 0}, uint8(1), []byte{255, 255, 255, 255})
	f.Add(make([]byte, 16), uint8(0), make([]byte, 16), uint8(1), make([]byte, 16), uint8(128), make([]byte, 16))
	f.Fuzz(func(t *testing.T, a []byte, aBits uint8, b []byte, bBits uint8, c []byte, cBits uint8, probe []byte) {
		block := func(raw []byte, bits uint8) (netip.Prefix, bool) {
			addr, ok := netip.AddrFromSlice(raw)
			if !ok {
				return netip.Prefix{}, false
			}
			p, err := addr.Unmap().Prefix(int(bits) % (addr.Unmap().BitLen() + 1))
			return p, err == nil
		}
		cidr, ok1 := block(a, aBits)
		except, ok2 := block(b, bBits)
		other, ok3 := block(c, cBits)
		addr, ok4 := netip.AddrFromSlice(probe)
		if !ok1 || !ok2 || !ok3 || !ok4 {
			return
		}
		union := policy.MergeRanges(slices.Concat(policy.Subtract(cidr, []netip.Prefix{except}), policy.Subtract(other, nil)))
		if len(union) > 3 {
			t.Errorf("%d ranges: %v", len(union), union)
		}
		for i, r := range union {
			if r.First.Compare(r.Last) > 0 || r.First.Is4() != r.Last.Is4() || i > 0 && union[i-1].Last.Compare(r.First) >= 0 {
				t.Fatalf("%v is not disjoint and in order", union)
			}
		}
		// Besides the given address, those where something begins or ends.
		for _, at := range []netip.Addr{addr.Unmap(), cidr.Addr(), except.Addr(), other.Addr(), except.Addr().Prev(), except.Addr().Next(), other.Addr().Prev()} {
			if !at.IsValid() {
				continue
			}
			want := cidr.Contains(at) && !except.Contains(at) || other.Contains(at)
			have := slices.ContainsFunc(union, func(r policy.AddrRange) bool {
				return r.First.Compare(at) <= 0 && at.Compare(r.Last) <= 0
			})
			if have != want {
				t.Errorf("%s in (%s less %s) and %s: %v, want %v (%v)", at, cidr, except, other, have, want, union)
			}
		}
	})
}

// FuzzParsePrefix: what parses is masked, of one family, and parses again.
func FuzzParsePrefix(f *testing.F) {
	for _, text := range []string{"10.0.0.0/8", "::ffff:1.2.3.4/96", "010.0.0.1/31", "::/0", "x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.ParsePrefix(text)
		if err != nil {
			return
		}
		if p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 || p.Addr().Zone() != "" {
			t.Errorf("%q gives %s", text, p)
		}
		if again, err := policy.ParsePrefix(p.String()); err != nil || again != p {
			t.Errorf("%q gives %s, which gives %s (%v)", text, p, again, err)
		}
	})
}
