package chaos

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/controllers/report"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/random"
	"github.com/podfence/podfence/test/steady"
)

// tampering is what others do to the table.
var tampering = []struct {
	what     string
	commands func(*trial) string
	// harmless: the kernel may take the commands, and leaves an owned table alone.
	harmless bool
}{
	{what: "table deleted", commands: saying("delete table inet podfence")},
	{what: "ruleset flushed", commands: saying("flush ruleset"), harmless: true},
	{what: "base chain deleted", commands: saying("flush chain inet podfence ingress-forward\ndelete chain inet podfence ingress-forward")},
	{what: "base chain flushed", commands: saying("flush chain inet podfence egress-forward")},
	{what: "one rule deleted", commands: deleteLastRule},
	{what: "one element deleted", commands: deleteElement},
	{what: "an accept put on top of a base chain", commands: saying("insert rule inet podfence ingress-forward accept")},
	{what: "firewall manager loads its own rules by `nft -f`, which flushes the ruleset first", commands: saying(manager), harmless: true},
}

func saying(commands string) func(*trial) string { return func(*trial) string { return commands } }

// manager is a firewall manager's ruleset.
const manager = `flush ruleset
table inet manager {
	set trusted { type ifname; elements = { "lo" } }
	chain input {
		type filter hook input priority filter; policy accept;
		iifname @trusted accept
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
	}
}`

// deleteLastRule deletes the rule that denies what mute sends.
func deleteLastRule(tr *trial) string {
	tr.t.Helper()
	listing, err := tr.lab.Run(&tr.lab.Node.Host, "", "nft", "--handle", "--stateless", "list", "table", "inet", "podfence")
	check.NoError(tr.t, err)
	// The chain's last line, which is "counter jump denied-egress # handle 47".
	chain := regexp.MustCompile(`(?ms)^\tchain (egress-\S+-` + steady.Namespace + "/" + steady.Mute + `) .*?jump denied-egress # handle (\d+)\n\t}$`).FindStringSubmatch(listing)
	if chain == nil {
		tr.t.Fatalf("no rule denies what %s sends:\n%s", steady.Mute, listing)
	}
	return fmt.Sprintf("delete rule inet podfence %s handle %s", chain[1], chain[2])
}

// deleteElement deletes caller's address from those that open lets in.
func deleteElement(tr *trial) string {
	tr.t.Helper()
	listing, err := tr.tableOf(tr.lab.Node)
	check.NoError(tr.t, err)
	caller := steady.Addrs(steady.Caller)[0].String()
	for _, set := range block.FindAllString(listing, -1) {
		if strings.HasPrefix(set, "\tset peers-4-") && strings.Contains(set, caller) && strings.Contains(set, "steady=caller") {
			return fmt.Sprintf("delete element inet podfence %s { %s }", strings.Fields(set)[1], caller)
		}
	}
	tr.t.Fatalf("no set has %s:\n%s", caller, listing)
	return ""
}

// TestTamperingIsRefused: where the kernel knows owners, nobody changes the table of
// an agent that runs.
func TestTamperingIsRefused(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	if !strings.Contains(tr.agent.Log(), `"ownsTable": true`) {
		t.Skip("skipped: this kernel has no tables that are owned and persist, which takes Linux 6.9")
	}
	_, table := tr.inForce()
	n := 0
	for range timesSlow(20) {
		for _, fault := range tampering {
			n++
			err := tr.nft(fault.commands(tr))
			have, listErr := tr.tableOf(tr.lab.Node)
			check.NoError(t, listErr)
			if differ(have, table) != nil || err == nil && !fault.harmless {
				t.Fatalf("%s: it was not refused (%v)", fault.what, err)
			}
			tr.refused++
		}
	}
	tr.advance(20)
	metrics, err := tr.agent.Metrics(t.Context())
	check.NoError(t, err)
	if repairs := metrics["podfence_repairs_total"]; repairs != 0 {
		t.Errorf("%v repairs of what was refused", repairs)
	}
	tr.end("all of the following, with a table that the agent owns (Linux 6.9)", n)
}

// inARow is how many times in a row a table is repaired at once: more is a fight.
const inARow = 3

// TestTamperingIsRepaired: elsewhere it is noticed and undone.
func TestTamperingIsRepaired(t *testing.T) {
	size := 1000
	if !*full {
		size = 100
	}
	folder := writeManifests(t, crowd(size))
	for _, fault := range tampering {
		t.Run(fault.what, func(t *testing.T) {
			tr := newTrial(t)
			tr.trackConnections()
			u := startUnowned(t, tr.world, nil, folder)
			t.Cleanup(func() { check.NoError(t, u.stop()) })
			check.NoError(t, tr.traffic.Start())
			tr.advance(20)
			want, err := tr.tableOf(tr.lab.Node)
			check.NoError(t, err)
			n := timesSlow(20)
			var repairs, cuts []time.Duration
			for i := range n {
				if i > 0 && i%inARow == 0 { // the next would be a fight
					check.NoError(t, u.stop())
					u = startUnowned(t, tr.world, nil, folder)
				}
				tr.advance(10)
				commands, done := fault.commands(tr), u.done()
				begun := time.Now()
				check.NoError(t, tr.nft(commands))
				replaced, judged := u.awaitRepair(t, done+1)
				repairs, cuts = append(repairs, replaced.Sub(begun)), append(cuts, judged.Sub(begun))
				tr.repairing = append(tr.repairing, span{begun, judged})
				have, err := tr.tableOf(tr.lab.Node)
				check.NoError(t, err)
				if err := differ(have, want); err != nil {
					t.Fatalf("after the repair: %v", err)
				}
				if len(u.log.With("Repaired the table")) == 0 {
					t.Error("the agent does not say that it has repaired the table")
				}
			}
			t.Logf("%d pods; repaired in %s at most, established flows judged in %s (median), %s (at most)", size, slices.Max(repairs), median(cuts), slices.Max(cuts))
			tr.repairedIn(repairs)
			tr.end(fmt.Sprintf("%s, with a table that has no owner, of %d pods", fault.what, size), n)
		})
	}
}

// TestFight has somebody undo every repair for three seconds: less would not tell.
func TestFight(t *testing.T) {
	tr := newTrial(t)
	tr.trackConnections()
	u := startUnowned(t, tr.world, tr.server.Config, "")
	t.Cleanup(func() { check.NoError(t, u.stop()) })
	tr.settled()
	check.NoError(t, tr.traffic.Start())
	begun := time.Now()
	undone := 0
	for time.Since(begun) < 3*time.Second {
		if tr.nft("delete table inet podfence") == nil {
			undone++
		}
	}
	tr.repair = tr.settled()
	check.Eventually(t, soon, "readiness after the fight", func() error { return u.Enforcer.Ready() })
	tr.repairing = append(tr.repairing, span{begun, time.Now()})
	fought := u.log.With("Somebody else keeps changing the table")
	t.Logf("the table was deleted %d times, %d times in a fight", undone, len(fought))
	var pauses []time.Duration
	for _, line := range fought {
		if !strings.Contains(line, `"process"="nft"`) {
			t.Errorf("this does not say who it is: %s", line)
		}
		pause, err := time.ParseDuration(regexp.MustCompile(`"after"="([^"]+)"`).FindStringSubmatch(line)[1])
		check.NoError(t, err)
		pauses = append(pauses, pause)
	}
	if len(pauses) < 2 || !slices.IsSorted(pauses) || undone > 30 {
		t.Errorf("%d deletions, then pauses of %v: this is no backing off", undone, pauses)
	}
	tr.tellsOfAFight()
	tr.end("table deleted as soon as it is there, for 3 s, with a table that has no owner", undone)
}

// tellsOfAFight waits for the Event on the Node.
func (tr *trial) tellsOfAFight() {
	tr.t.Helper()
	check.Eventually(tr.t, soon, "an Event that tells of the fight", func() error {
		ctx, cancel := context.WithTimeout(tr.t.Context(), soon)
		defer cancel()
		events, err := tr.server.API.CoreV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + random.Node})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == report.ReasonTamperedWith && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, "over and over") && strings.Contains(e.Message, "nft") {
				return nil
			}
		}
		return fmt.Errorf("%d Events, none tells of a fight with nft", len(events.Items))
	})
}
