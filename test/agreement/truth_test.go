package agreement_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

var worlds = flag.Int("worlds", 4, "nodes whose containers the API server is wrong about, for each way of attaching pods")

// TestWhereTheAPIIsWrong: an address that a container of the node has is fenced as the pod
// that really has it, or nothing passes to or from it, whatever the API server shows: of
// remade sandboxes the addresses that others have now, pods that have ended or were made
// anew while their containers run, or none. Who has an address is the lab's word. To see a
// failure again:
//
//	go test ./test/agreement -run TestWhereTheAPIIsWrong/routed -worlds 1 -seed N
func TestWhereTheAPIIsWrong(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			t.Parallel()
			c, total := open(t, attach, lab.Options{}), &misshown{counts: newCounts(attach)}
			next, until := *seed, time.Now().Add(*duration)
			for ; next < *seed+int64(*worlds) || time.Now().Before(until); next++ {
				unshown(t, c, attach, next, total)
			}
			t.Logf("seeds %d to %d: %s; of addresses that are another's for the API server %d, of containers without a known pod %d",
				*seed, next-1, total, total.wrong, total.orphan)
			if *worlds > 3 && (total.allowed == 0 || total.wrong == 0 || total.orphan == 0) {
				t.Error("too few of one kind to tell")
			}
		})
	}
}

// misshown counts, of the packets' ends, addresses that are another's for the API server, and
// those of containers without a known pod.
type misshown struct {
	*counts
	wrong, orphan int
}

// pods are how many names of pods a node of this test has.
const pods = 12

// unshown is one round: a node's containers, and what the API server says of them, which
// changes a few times; then all sandboxes are remade.
func unshown(t *testing.T, c *agreement.Cluster, attach lab.Attach, seed int64, total *misshown) {
	t.Helper()
	r := rand.New(rand.NewSource(2*seed + int64(attach)))
	o := ruleset.Options{AllowToNode: r.Intn(2) == 0, RevokedMark: agreement.RevokedMark, LongRun: 1 + r.Intn(4)}
	history := random.Events(random.Cluster(r, pods, 8))
	defer func() {
		if err := c.Settle(nil); err != nil {
			t.Error(err)
		}
	}()
	for step := range 3 {
		sandboxes := random.Sandboxes(r, random.Snapshot(history), pods)
		for change := range 2 {
			for _, event := range random.History(r, 10) {
				// Policies stay: enough is to pass. No kubelet is wrong about nodes' addresses.
				if pod, is := event.Object.(*corev1.Pod); is && (pod.Spec.NodeName != random.Node || !random.ShowsNode(pod)) {
					history = append(history, event)
				}
			}
			s := random.Snapshot(history)
			s.Attachments = append(random.Ended(r, pods), sandboxes...)
			when := fmt.Sprintf("seed %d, options %+v, sandboxes made %d times, change %d", seed, o, step+1, change)
			if err := c.Settle(homesOf(s, sandboxes)); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if step+change == 0 {
				if err := c.Replace(s, o); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
			} else if plan, err := c.Set(s); err != nil {
				t.Fatalf("%s: %v\n%s", when, err, plan.Text())
			}
			if !keeps(t, c, r, s, sandboxes, when, total) {
				return
			}
		}
	}
}

// homesOf are where addresses really are: at the sandboxes, and of other nodes' pods where
// the API server shows them, unless it shows them for a pod of this node too. That has them only
// if it has a sandbox.
func homesOf(s policy.Snapshot, sandboxes []policy.Attachment) agreement.Homes {
	homes := agreement.Homes{}
	taken := map[netip.Addr]bool{}
	for _, a := range sandboxes {
		homes[a.ContainerID+"-"+a.IfName] = a.IPs
		for _, ip := range a.IPs {
			taken[ip] = true
		}
	}
	here := func(pod *corev1.Pod) bool { return pod.Spec.NodeName == random.Node && !pod.Spec.HostNetwork }
	for _, pod := range s.Pods {
		if here(pod) {
			for _, ip := range random.PodAddrsOf(pod) {
				taken[ip] = true
			}
		}
	}
	for _, pod := range s.Pods {
		if here(pod) || pod.Spec.HostNetwork {
			continue
		}
		for _, ip := range random.PodAddrsOf(pod) {
			if name := pod.Namespace + "/" + pod.Name; !taken[ip] {
				homes[name], taken[ip] = append(homes[name], ip), true
			}
		}
	}
	return homes
}

// keeps sends packets from and to the addresses that there really are, and reports those
// that come to another end than the truth lets them.
func keeps(t *testing.T, c *agreement.Cluster, r *rand.Rand, s policy.Snapshot, sandboxes []policy.Attachment, when string, total *misshown) bool {
	t.Helper()
	truth := random.Truth(s, sandboxes)
	var cases []agreement.Case
	for len(cases) < 60 {
		p := random.Packet(r, s)
		// What begins nothing is TestThreeWayAgreement's.
		if owner := c.Lab.Owner(p.Src); owner == nil || c.Lab.Owner(p.Dst) == nil || !random.Begins(p) {
			continue
		}
		cases = append(cases, agreement.Case{Packet: p})
		for _, ip := range []netip.Addr{p.Src, p.Dst} {
			has := func(a policy.Attachment) bool { return slices.Contains(a.IPs, ip) }
			if slices.ContainsFunc(truth.Attachments, has) {
				total.orphan++
			} else if slices.ContainsFunc(sandboxes, has) && !slices.ContainsFunc(s.Pods, func(p *corev1.Pod) bool {
				i := slices.IndexFunc(sandboxes, has)
				return p.Name == sandboxes[i].Pod.Name && slices.Contains(random.PodAddrsOf(p), ip)
			}) {
				total.wrong++
			}
		}
	}
	report, err := c.Check(context.Background(), truth, cases)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	total.add(report)
	wrong := report.Disagreements()
	if len(wrong) > 0 {
		t.Errorf("%s: %d of %d packets disagree with who really has which address:\n%s\nthe sandboxes:\n%+v", when, len(wrong), len(report), wrong[:min(5, len(wrong))], sandboxes)
	}
	flows, revoked, err := c.Revoke(truth)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if total.flows += flows; len(revoked) > 0 {
		t.Errorf("%s: %d of %d flows disagree with who really has which address:\n%s", when, len(revoked), flows, revoked[:min(5, len(revoked))])
	}
	return len(wrong)+len(revoked) == 0
}
