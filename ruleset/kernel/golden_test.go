package kernel_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestGoldens: what the kernel holds after a plan is carried out over netlink
// is what it holds after nft has read the golden text, which the renderer is
// tested to write. nft takes back what it lists.
func TestGoldens(t *testing.T) {
	paths, err := filepath.Glob("../testdata/*.nft")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens in ../testdata: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			have, want := newNamespace(t), newNamespace(t)
			if err := have.open().Apply(tableOf(t, strings.TrimSuffix(path, ".nft")).Replacement()); err != nil {
				t.Fatal(err)
			}
			want.load(string(golden))
			expectSame(t, have, want)
		})
	}
}

// tableOf is the table that a golden shows.
func tableOf(t *testing.T, input string) *nft.Table {
	t.Helper()
	var options ruleset.Options
	switch name := filepath.Base(input); {
	case name == "guard":
		return &ruleset.BuildGuard([]policy.Attachment{
			attachment("pf4kzn2xo1a7", 2, "10.244.1.2", "fd00:10:244:1::2"),
			attachment("pfq3vd8s0mwe", 3, "10.244.1.3", "fd00:10:244:1::3"),
		}, gateway("10.244.1.1", "fd00:10:244:1::1"), ruleset.FragmentMemory{}).Table
	case name == "links":
		return &ruleset.BuildLinks(links, ruleset.FragmentMemory{}).Table
	case name == "masquerade":
		options = ruleset.Options{Guard: true, Masquerade: true, SourceCheck: true, Bridge: "podfence0", TunnelPort: 8472}
	case strings.HasSuffix(name, "-by-peer"):
		input, options = strings.TrimSuffix(input, "-by-peer"), ruleset.Options{LongRun: 1}
	case strings.HasSuffix(name, "-links"):
		input, options = strings.TrimSuffix(input, "-links"), ruleset.Options{Links: true}
	case strings.HasSuffix(name, "-options"):
		input, options = strings.TrimSuffix(input, "-options"), ruleset.Options{Reject: true, AllowToNode: true, RevokedMark: 1 << 29, MaxConnections: 10_000, LogGroup: 28774}
	}
	objects, err := manifests.Load(input + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	intent, _ := policy.Compile(objects.Snapshot, "node-1")
	table := ruleset.Build(intent, options)
	table.UpdateLinks(links)
	return &table.Table
}

// links are those of two pods, of which one is isolated for ingress, and a third.
var links = ruleset.Links{
	All: []string{"veth-a", "veth-b", "veth-c"}, Closed: [2][]string{{"veth-a", "veth-c"}, {"veth-c"}},
	Addrs: []ruleset.LinkAddr{
		{Link: "veth-a", Addr: netip.MustParseAddr("10.244.1.7")}, {Link: "veth-a", Addr: netip.MustParseAddr("fd00:10:244:1::7")},
		{Link: "veth-b", Addr: netip.MustParseAddr("10.244.1.9")},
	},
	Somewhere: []string{"veth-c"}, SomewhereAddrs: []netip.Addr{netip.MustParseAddr("10.244.1.8"), netip.MustParseAddr("fd00:10:244:1::8")},
	ClosedAddrs: [2][]netip.Addr{
		{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244:1::7"), netip.MustParseAddr("10.244.1.8")}, {netip.MustParseAddr("fd00:10:244:1::8")},
	},
}

// attachment is a pod's, with the last byte of its hardware address.
func attachment(port string, last byte, addrs ...string) policy.Attachment {
	return policy.Attachment{HostInterface: port, MAC: [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, last}, IPs: parseAddrs(addrs)}
}

func gateway(addrs ...string) ruleset.Gateway {
	return ruleset.Gateway{MAC: [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x01}, Addrs: parseAddrs(addrs)}
}

func parseAddrs(texts []string) (parsed []netip.Addr) {
	for _, text := range texts {
		parsed = append(parsed, netip.MustParseAddr(text))
	}
	return parsed
}
