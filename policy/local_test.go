package policy_test

import (
	"cmp"
	"math/rand"
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestLocals: by deltas, a node's addresses come to the same as by its whole intent.
func TestLocals(t *testing.T) {
	inOrder := func(l *policy.Locals) []policy.LocalAddr {
		return slices.SortedFunc(slices.Values(l.Addrs()), func(a, b policy.LocalAddr) int { return a.Addr.Compare(b.Addr) })
	}
	behind := 0
	for seed := range random.Seeds(*seed, *histories/3) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		for i, event := range history {
			if a := event.Attachment; a != nil && i%3 > 0 { // others are another plugin's
				a.HostInterface = "pf" + a.ContainerID
			}
		}
		m := policy.NewModel(random.Node)
		have := policy.NewLocals(m.Intent())
		for i, event := range history {
			m.Apply(event.Change())
			if r.Intn(5) > 0 {
				continue
			}
			for pending := true; pending; pending = m.Pending() {
				have.Apply(m.Take())
			}
			intent, _ := policy.Compile(random.Snapshot(history[:i+1]), random.Node)
			want := localsOf(intent)
			if diff := differ(want, inOrder(have)); diff != "" {
				t.Fatalf("seed %d, after %d events (-want +have):\n%s", seed, i+1, diff)
			}
			for _, local := range want {
				behind += cmp.Compare(len(local.HostInterface), 0)
			}
		}
	}
	if behind == 0 {
		t.Error("no address was ever at a link that is known")
	}
}

// localsOf reads the addresses out of an intent, by itself.
func localsOf(in policy.Intent) (all []policy.LocalAddr) {
	at := map[netip.Addr]policy.LocalAddr{}
	for _, s := range in.Subjects {
		for _, ip := range s.IPs {
			was := at[ip].Closed
			at[ip] = policy.LocalAddr{Addr: ip, Closed: [2]bool{was[0] || s.Fenced(0), was[1] || s.Fenced(1)}}
		}
	}
	for ip := range in.Orphans {
		at[ip] = policy.LocalAddr{Addr: ip, Closed: [2]bool{true, true}}
	}
	for ip, local := range at {
		first := ""
		for key, a := range in.Attachments {
			if slices.Contains(a.IPs, ip) && (first == "" || key.String() < first) {
				first, local.HostInterface = key.String(), a.HostInterface
			}
		}
		all = append(all, local)
	}
	slices.SortFunc(all, func(a, b policy.LocalAddr) int { return a.Addr.Compare(b.Addr) })
	return all
}
