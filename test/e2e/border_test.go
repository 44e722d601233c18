//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

const (
	// knockEvery is how often a pod at the border sends to each address on the other side.
	knockEvery = 5 * time.Millisecond
	// closedFor is for how long nothing may cross the border for it to count as closed.
	closedFor = 1500 * time.Millisecond
)

// border is between two namespaces, with a pod of each on either node. Each of them sends UDP packets
// to all on the other side, without end. Nobody takes these, but the receivers' kernels count each that
// arrives.
type border struct {
	inside, outside     string // the namespaces
	insiders, outsiders *side
	// toInsiders and toOutsiders are how many packets had arrived on each side when the border was
	// closed.
	toInsiders, toOutsiders int

	talkers []*corev1.Pod
	talks   []*steady
}

// side is the pods on one side of a border.
type side struct {
	pods      []*corev1.Pod
	processes []string
}

// newBorder starts the pods, and waits until all reach each other across the border.
func newBorder(t *testing.T) *border {
	t.Helper()
	b := &border{inside: newNamespace(t), outside: newNamespace(t)}
	var pods []*corev1.Pod
	for _, node := range bothNodes {
		pods = append(pods, newPod(b.inside, "insider-"+node, on(node)), newPod(b.outside, "outsider-"+node, on(node)))
	}
	pods = start(t, pods...)
	b.insiders, b.outsiders = newSide(t, pods[0], pods[2]), newSide(t, pods[1], pods[3])
	for _, pod := range b.insiders.pods {
		sendTo(t, pod, knockEvery, b.outsiders.addresses())
	}
	for _, pod := range b.outsiders.pods {
		sendTo(t, pod, knockEvery, b.insiders.addresses())
	}
	b.expectOpen(t, "pods to reach each other without policies")
	return b
}

func newSide(t *testing.T, pods ...*corev1.Pod) *side {
	t.Helper()
	s := &side{pods: pods}
	for _, pod := range pods {
		process, err := cluster.PodProcess(string(pod.UID))
		if err != nil {
			t.Fatal(err)
		}
		s.processes = append(s.processes, process)
	}
	return s
}

func (s *side) addresses() (all []netip.Addr) {
	for _, pod := range s.pods {
		for _, ip := range podIPs(pod) {
			all = append(all, netip.MustParseAddr(ip))
		}
	}
	return all
}

// received counts the UDP packets that have come in to the pods of a side, by their kernels.
func (s *side) received(t *testing.T) (total int) {
	t.Helper()
	for _, process := range s.processes {
		counts, err := counters(process)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"UdpInDatagrams", "UdpNoPorts", "UdpInErrors", "Udp6InDatagrams", "Udp6NoPorts", "Udp6InErrors"} {
			total += counts[name]
		}
	}
	return total
}

// inward are the ways of outsiders to insiders, outward those of insiders to outsiders.
func (b *border) inward(t *testing.T) []way { return waysBetween(t, b.outsiders.pods, b.insiders.pods) }
func (b *border) outward(t *testing.T) []way {
	return waysBetween(t, b.insiders.pods, b.outsiders.pods)
}

// expectOpen waits until all pods reach each other across the border.
func (b *border) expectOpen(t *testing.T, what string) {
	t.Helper()
	expectWays(t, what, append(b.inward(t), b.outward(t)...), nil)
}

// expectClosed waits until nothing crosses the border any more, and returns when the last packet did.
func (b *border) expectClosed(t *testing.T, what string) (last time.Time) {
	t.Helper()
	began := time.Now()
	for last = began; time.Since(last) < closedFor; time.Sleep(10 * time.Millisecond) {
		in, out := b.insiders.received(t), b.outsiders.received(t)
		if in != b.toInsiders || out != b.toOutsiders {
			b.toInsiders, b.toOutsiders, last = in, out, time.Now()
		}
		if time.Since(began) > seenWithin {
			t.Fatalf("waited %s for %s: packets still arrive, %d inside and %d outside", seenWithin, what, in, out)
		}
	}
	return last
}

// expectStillClosed fails the test for each packet that has crossed the border since it was closed.
func (b *border) expectStillClosed(t *testing.T, what string) {
	t.Helper()
	if in, out := b.insiders.received(t)-b.toInsiders, b.outsiders.received(t)-b.toOutsiders; in != 0 || out != 0 {
		t.Errorf("%s: %d denied packets have arrived inside, and %d outside", what, in, out)
	}
}

// closing are two policies that close the border, the first to what comes in, the second to what goes
// out. Their subjects are the namespace inside, and others, which may go on among themselves as far as
// NetworkPolicies allow.
func (b *border) closing(t *testing.T, others ...string) []*clusterv1beta1.ClusterNetworkPolicy {
	t.Helper()
	all := named(append(others, b.inside)...)
	return []*clusterv1beta1.ClusterNetworkPolicy{
		clusterPolicy(t, "e2e-inward", fmt.Sprintf(`{tier: Admin, priority: 10, subject: {namespaces: %s}, ingress: [
			{action: Pass, from: [{namespaces: %s}]}, {action: Deny, from: [{namespaces: {}}]}]}`, all, all)),
		clusterPolicy(t, "e2e-outward", fmt.Sprintf(`{tier: Admin, priority: 10, subject: {namespaces: %s}, egress: [
			{action: Pass, to: [{namespaces: %s}]}, {action: Deny, to: [{namespaces: %s}]}]}`, all, all, named(b.outside))),
	}
}

// expectClosedUntilGone waits until the policies that close the border have vanished. As long as one of
// them is there, nothing that it denies passes.
func (b *border) expectClosedUntilGone(t *testing.T, api ctrlclient.Client, closing []*clusterv1beta1.ClusterNetworkPolicy) {
	t.Helper()
	there := func(cnp *clusterv1beta1.ClusterNetworkPolicy) (bool, error) {
		err := api.Get(context.Background(), ctrlclient.ObjectKeyFromObject(cnp), &clusterv1beta1.ClusterNetworkPolicy{})
		return err == nil, ctrlclient.IgnoreNotFound(err)
	}
	check.Eventually(t, seenWithin, "the policies to vanish", func() error {
		// What is counted before the API server is asked has arrived while the policy was there.
		in, out := b.insiders.received(t)-b.toInsiders, b.outsiders.received(t)-b.toOutsiders
		inward, err := there(closing[0])
		if err != nil {
			return err
		}
		outward, err := there(closing[1])
		if err != nil {
			return err
		}
		if inward && in != 0 || outward && out != 0 {
			t.Fatalf("%d packets have arrived inside and %d outside, while the policies are there: that of ingress %t, that of egress %t", in, out, inward, outward)
		}
		if inward || outward {
			return errors.New("they are there")
		}
		return nil
	})
}

// talk starts pods inside, one on each node, that talk to each other without end, and to nobody else.
func (b *border) talk(t *testing.T) {
	t.Helper()
	b.talkers = start(t, newPod(b.inside, "talker-node1", on("node1")), newPod(b.inside, "talker-node2", on("node2")))
	for i, talker := range b.talkers {
		for _, ip := range podIPs(b.talkers[1-i]) {
			b.talks = append(b.talks, keepTalking(t, talker, ip))
		}
	}
}

// check ends the talks, of which no packet may have been lost.
func (b *border) check(t *testing.T) {
	t.Helper()
	for i, talk := range b.talks {
		talk.check(t, fmt.Sprintf("talk %d inside", i))
	}
	if n := synsTwice(t, b.talkers...); n != 0 {
		t.Errorf("%d SYNs of those who talk were sent twice", n)
	}
}

// synsTwice is how many SYNs of pods were sent again, because none of their answers came within a
// second: by their kernels' count.
func synsTwice(t *testing.T, pods ...*corev1.Pod) (total int) {
	t.Helper()
	for _, process := range newSide(t, pods...).processes {
		counts, err := counters(process)
		if err != nil {
			t.Fatal(err)
		}
		total += counts["TcpExtTCPSynRetrans"]
	}
	return total
}
