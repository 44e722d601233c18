package cli

import (
	"io/fs"
	"strconv"
	"strings"

	"github.com/podfence/podfence/ruleset"
)

// fragmentMemory reads how much memory and time the node has for fragments that wait for others. A
// setting that cannot be read, for instance because connection tracking of IPv6 is not loaded yet,
// is taken to be the kernel's default. settings is where sysctls are.
func fragmentMemory(settings fs.FS) ruleset.FragmentMemory {
	read := func(name string) uint64 {
		text, err := fs.ReadFile(settings, name)
		if err != nil {
			return 0
		}
		number, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
		if err != nil {
			return 0
		}
		return number
	}
	return ruleset.FragmentMemory{
		V4: ruleset.Waiting{Octets: read("net/ipv4/ipfrag_high_thresh"), Seconds: uint32(read("net/ipv4/ipfrag_time"))},
		V6: ruleset.Waiting{Octets: read("net/netfilter/nf_conntrack_frag6_high_thresh"), Seconds: uint32(read("net/netfilter/nf_conntrack_frag6_timeout"))},
	}
}
