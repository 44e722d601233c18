package ruleset_test

import (
	"errors"
	"flag"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldens are the renderings of testdata's manifests, one for each way to
// deny, and the guard of two pods. That the kernel holds the same is tested in ruleset/kernel.
func goldens(t *testing.T) map[string]*nft.Table {
	t.Helper()
	tables := map[string]*nft.Table{}
	inputs, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no manifests in testdata: %v", err)
	}
	for _, input := range inputs {
		objects, err := manifests.Load(input)
		if err != nil {
			t.Fatal(err)
		}
		intent, _ := policy.Compile(objects.Snapshot, "node-1")
		name := strings.TrimSuffix(input, ".yaml")
		var options ruleset.Options
		if filepath.Base(name) == "masquerade" {
			options = ruleset.Options{Guard: true, Masquerade: true, SourceCheck: true, Bridge: "podfence0", TunnelPort: 8472}
		}
		tables[name+".nft"] = &ruleset.Build(intent, options).Table
		if filepath.Base(name) == "cluster-policies" {
			tables[name+"-by-peer.nft"] = &ruleset.Build(intent, ruleset.Options{LongRun: 1}).Table
		}
		if filepath.Base(name) == "default-deny" {
			fenced := ruleset.Build(intent, ruleset.Options{Links: true})
			fenced.UpdateLinks(links)
			tables[name+"-links.nft"] = &fenced.Table
			tables[name+"-options.nft"] = &ruleset.Build(intent, ruleset.Options{Reject: true, AllowToNode: true, RevokedMark: 1 << 29, MaxConnections: 10_000, LogGroup: 28774}).Table
		}
	}
	tables["testdata/links.nft"] = &ruleset.BuildLinks(links, ruleset.FragmentMemory{}).Table
	names := ruleset.BuildNames(askers, []netip.AddrPort{dns4, dns6}, namesOptions)
	tables["testdata/names/names.nft"] = &names.Table
	tables["testdata/guard.nft"] = &ruleset.BuildGuard(attachments(2), gateway, ruleset.FragmentMemory{}).Table
	return tables
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

func TestGoldens(t *testing.T) {
	for path, table := range goldens(t) {
		if *update {
			if err := os.WriteFile(path, []byte(table.Text()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s is missing: run `make golden`, and read what it writes", path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), table.Text()); diff != "" {
			t.Errorf("%s (-want +have); if that is meant, run `make golden`:\n%s", path, diff)
		}
	}
}

// beyond are the sets and chains of a golden that another does not have in the same form.
func beyond(golden, other string) string {
	blocksOf := func(text string) []string {
		_, text, _ = strings.Cut(text, "{\n")
		return strings.Split(strings.TrimSuffix(text, "\n}\n"), "\n\n")
	}
	has := blocksOf(other)
	blocks := slices.DeleteFunc(blocksOf(golden), func(block string) bool { return slices.Contains(has, block) })
	return strings.Join(blocks, "\n\n") + "\n"
}

// TestRulesetDocument holds the goldens that docs/RULESET.md shows equal to
// the files: between "<!-- golden: FILE -->" and the end of the code block. With "FILE beyond OTHER", it is
// what the one has that the other has not.
func TestRulesetDocument(t *testing.T) {
	const path = "../docs/RULESET.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(data), "<!-- golden: ")
	for _, name := range []string{"default-deny", "web", "default-deny-options", "masquerade", "links", "guard", "cluster-policies", "cluster-policies-by-peer", "names/names"} {
		if !strings.Contains(string(data), "<!-- golden: "+name+".nft ") {
			t.Errorf("%s does not show %s.nft", path, name)
		}
	}
	for i, part := range parts[1:] {
		name, rest, found := strings.Cut(part, " -->\n```nft\n")
		shown, after, closed := strings.Cut(rest, "```\n")
		if !found || !closed {
			t.Fatalf("%s: golden %d is not a marker with a code block", path, i+1)
		}
		file, other, differs := strings.Cut(name, " beyond ")
		want, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if differs {
			has, err := os.ReadFile(filepath.Join("testdata", other))
			if err != nil {
				t.Fatal(err)
			}
			want = []byte(beyond(string(want), string(has)))
		}
		if *update {
			parts[i+1] = name + " -->\n```nft\n" + string(want) + "```\n" + after
			continue
		}
		if diff := cmp.Diff(string(want), shown); diff != "" {
			t.Errorf("%s does not show %s as it is (-want +shown); run `make golden`:\n%s", path, name, diff)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(parts, "<!-- golden: ")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
