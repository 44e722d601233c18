package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/generate"
	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
)

// way is a conversation by the names of who talks, to whom and about what.
type way struct{ from, to, what string }

// meant is what the shop's people have to do with each other. node-1 is the frontend's own node, so that what it sends
// there needs no rule.
var meant = []way{
	{"customer", "frontend", "http"}, {"frontend", "backend", "http"}, {"frontend", "backend", "stats"},
	{"backend", "db", "sql"}, {"backend", "partner", "https"}, {"node-1", "frontend", "http"}, {"node-1", "backend", "http"},
}

// TestGeneratedPolicies: the shop's traffic is seen by its agents while there is no policy; with the policies that are generated of it,
// all of that passes again, and whatever else is tried to and from the pods is denied, by the kernel as by Judge.
func TestGeneratedPolicies(t *testing.T) {
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("skipped: the lab counts packets by nft: %v", err)
	}
	plugin := filepath.Join(t.TempDir(), "podfence-cni")
	check.NoError(t, prebuilt.Plugin(plugin))
	check.NoError(t, removeLeftovers())
	var shop town
	t.Cleanup(func() {
		if err := shop.stop(); err != nil {
			t.Error(err)
		}
		if err := shop.remove(); err != nil {
			t.Error(err)
		}
	})
	check.NoError(t, shop.build(t.Context(), plugin))
	check.NoError(t, shop.enforced(t.Context()))

	seen := shop.observe(t)
	objects, err := manifests.Read([]string{shop.manifests()}, manifests.ReadOptions{})
	check.NoError(t, err)
	of := explain.Cluster{Snapshot: objects.Snapshot, Services: objects.Services, Workloads: objects.Workloads}
	result := generate.Generate(&of, generate.Seen{Flows: seen}, generate.Options{ShortestIPv4: 24, ShortestIPv6: 64})
	slices.Reverse(seen)
	again := generate.Generate(&of, generate.Seen{Flows: seen}, generate.Options{ShortestIPv4: 24, ShortestIPv6: 64})
	text := textOf(t, result)
	if textOf(t, again) != text {
		t.Error("the same flows in another order make other policies")
	}
	var report strings.Builder
	check.NoError(t, result.Report.WriteText(&report))
	if !result.Report.Complete() || len(result.Report.Open)+len(result.Report.Unseen) > 0 || result.Report.Policies != 3 {
		t.Fatalf("%s\n%s", &report, text)
	}
	check.NoError(t, os.WriteFile(filepath.Join(shop.manifests(), "generated.yaml"), []byte(text), 0o600))
	check.NoError(t, shop.enforced(t.Context()))
	enforced, err := manifests.Load(shop.manifests())
	check.NoError(t, err)
	conversations, err := shop.talk(t.Context(), enforced.Snapshot)
	check.NoError(t, err)
	passed, denied := 0, 0
	for _, c := range conversations {
		w := way{c.from.Name, c.to.host.Name, c.to.what}
		ofPods := c.from.where != "" && c.from.where != "outside" || c.to.host.where != "" && c.to.host.where != "outside"
		want := slices.Contains(meant, w) || !ofPods || c.from.where == "" && c.to.host.where == c.from.Name
		if c.want {
			passed++
		} else {
			denied++
		}
		if c.wrong || c.want != want {
			t.Errorf("%v: policies allow it: %v, it is meant: %v, and packets did otherwise: %v (%s)", w, c.want, want, c.wrong, c.verdict)
		}
	}
	if passed < len(meant) || denied < 20 {
		t.Errorf("%d conversations passed, and %d were denied", passed, denied)
	}
	t.Logf("%d flows, %d conversations passed, %d denied\n%s%s", len(seen), passed, denied, &report, text)
}

// observe has everybody talk as it is meant until the agents have told of all of it, and returns what they have told.
func (t *town) observe(test *testing.T) (seen []*flows.Flow) {
	test.Helper()
	for _, f := range t.fences {
		defer f.Flows.Observe()()
	}
	read := make([]uint64, len(t.fences))
	check.Eventually(test, soon, "the agents to tell of all that is meant", func() error {
		ctx, cancel := context.WithTimeout(test.Context(), time.Second)
		defer cancel()
		if err := t.talkAsMeant(); err != nil {
			return err
		}
		for i, f := range t.fences {
			for {
				flow, number := f.Flows.Get(read[i])
				if flow == nil {
					break
				}
				seen, read[i] = append(seen, flow), number+1
			}
		}
		for _, c := range t.conversationsMeant() {
			if !slices.ContainsFunc(seen, c.isToldBy) {
				<-ctx.Done()
				return fmt.Errorf("%s to %s %s is not told of", c.from.Name, c.to.host.Name, c.to.what)
			}
		}
		return nil
	})
	return seen
}

// conversationsMeant are those that are meant, each by one family.
func (t *town) conversationsMeant() (all []met) {
	for _, w := range meant {
		for _, from := range t.people {
			for _, to := range t.services {
				if w == (way{from.Name, to.host.Name, to.what}) {
					for _, dst := range to.host.IPs {
						all = append(all, met{conversation{from: from, to: to}, dst})
					}
				}
			}
		}
	}
	return all
}

// met is a conversation by an address.
type met struct {
	conversation
	at netip.Addr
}

// isToldBy reports whether a flow is of the conversation.
func (m met) isToldBy(f *flows.Flow) bool {
	from := f.Source.IP == m.from.IP(m.at) || f.Source.Node == m.from.Name // a node has several addresses
	return from && f.Destination.IP == m.at && f.Destination.Port == m.to.port && f.Protocol == m.to.protocol.String() && f.Verdict == flows.Allowed
}

func (t *town) talkAsMeant() error {
	for _, c := range t.conversationsMeant() {
		if err := c.from.Exchange(c.to.protocol, netip.AddrPortFrom(c.at, c.to.port), patience); err != nil {
			return fmt.Errorf("before any policy, %s to %s: %w", c.from.Name, c.to.host.Name, err)
		}
	}
	return nil
}

// textOf are policies as YAML.
func textOf(t *testing.T, r *generate.Result) string {
	t.Helper()
	var text strings.Builder
	for i := range r.Policies {
		text.WriteString("---\n")
		check.NoError(t, r.Policies[i].WriteYAML(&text))
	}
	return text.String()
}
