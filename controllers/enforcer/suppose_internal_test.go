package enforcer

import (
	"context"
	"math/rand"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
	"github.com/podfence/podfence/test/recorder"
)

// TestSuppositionIsRight: of random clusters, changes and packets, a packet passes as it is supposed to if and only if
// it passes once the changes are made; and all that is supposed changes nothing.
func TestSuppositionIsRight(t *testing.T) {
	const clusters, packets = 60, 300
	cut, opened := 0, 0
	for seed := range int64(clusters) {
		r := rand.New(rand.NewSource(seed))
		s, other := random.Cluster(r, 12, 8), random.Cluster(r, 12, 8)
		var changes []policy.Change
		for _, np := range other.Policies[:4] {
			changes = append(changes, policy.ChangeOf(np))
		}
		for _, np := range s.Policies[4:6] {
			changes = append(changes, policy.Gone(np))
		}
		for _, cnp := range other.ClusterPolicies {
			changes = append(changes, policy.ChangeOf(cnp))
		}
		changes = append(changes, policy.ChangeOf(other.Namespaces[0]))
		for _, pod := range s.Pods[:3] {
			pod = pod.DeepCopy()
			pod.Labels = random.Labels(r)
			changes = append(changes, policy.ChangeOf(pod))
		}
		is, would := running(t, s), running(t, s, changes...)
		supposed, now, then := is.Suppose(changes...), is.Suppose(), would.Suppose()
		for range packets {
			p := random.Packet(r, s)
			for _, hook := range []nft.HookPoint{nft.Forward, nft.Input, nft.Output} {
				before, after := supposed.Passes(hook, p), supposed.WouldPass(hook, p)
				if before != now.WouldPass(hook, p) {
					t.Fatalf("seed %d: %s at %s passes: %t, and with no change supposed: %t", seed, p, hook, before, !before)
				}
				if want := then.Passes(hook, p); after != want {
					t.Fatalf("seed %d: %s at %s would pass: %t, and after the changes: %t", seed, p, hook, after, want)
				}
				if denials := supposed.Denials(hook, p); after != (len(denials) == 0) {
					t.Fatalf("seed %d: %s at %s would pass: %t, and is denied by %+v", seed, p, hook, after, denials)
				}
				if before && !after {
					cut++
				} else if after && !before {
					opened++
				}
			}
		}
	}
	t.Logf("%d packets would be cut, and %d would pass that do not now", cut, opened)
	if cut < clusters || opened < clusters {
		t.Errorf("only %d packets would be cut, and %d would pass: the test says little", cut, opened)
	}
}

// running is an enforcer that has committed a cluster and changes.
func running(t *testing.T, s policy.Snapshot, changes ...policy.Change) *Enforcer {
	t.Helper()
	e := New(&recorder.Kernel{}, Options{Node: s.Node, LastPodCIDRs: s.LastPodCIDRs, Ruleset: ruleset.Options{RevokedMark: 1 << 29, LogGroup: 1}})
	var all []policy.Change
	for _, o := range s.Nodes {
		all = append(all, policy.ChangeOf(o))
	}
	for _, o := range s.Namespaces {
		all = append(all, policy.ChangeOf(o))
	}
	for _, o := range s.Pods {
		all = append(all, policy.ChangeOf(o))
	}
	for _, o := range s.Policies {
		all = append(all, policy.ChangeOf(o))
	}
	for _, o := range s.ClusterPolicies {
		all = append(all, policy.ChangeOf(o))
	}
	for _, o := range s.PodAddresses {
		all = append(all, policy.ChangeOf(o))
	}
	e.Feed(append(append(all, changes...), policy.Synced())...)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { _ = e.Start(ctx) }()
	if err := e.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	return e
}
