package churn

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// NewLab makes the node, with hosts for all addresses that pods ever have, on
// whichever node. Which pod has an address is for the agent to know: in the lab
// each is always at the same host. The node has no table.
func NewLab() (*agreement.Cluster, error) {
	// A probe that should arrive is sent twice, as one that should not, and no
	// more: a verdict that comes late is wrong.
	l, err := agreement.New(agreement.Options{Lab: lab.Options{Patience: time.Nanosecond}})
	if err != nil {
		return nil, err
	}
	err = l.Disconnect() // the table is the agent's
	for name, addrs := range hosts() {
		if err == nil {
			_, err = l.Node.AddPod(name, lab.PodOptions{IPs: addrs})
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// hosts are those of NewLab. The agent fences a pod's link, too, so that no two pods may ever
// have one: there is one for each of the node's pods, one for all of each other node, and one
// for each address that pods of any node may have.
func hosts() map[string][]netip.Addr {
	hosts := map[string][]netip.Addr{}
	for i := range Pods {
		hosts[fmt.Sprintf("pod-%d", i)] = random.PodAddrs(i, random.Node)
		for node := range random.Remote() {
			hosts["pods-of-"+node] = append(hosts["pods-of-"+node], random.PodAddrs(i, node)...)
		}
	}
	for i := range random.Outsiders {
		for family, addr := range random.OutsideRanges(i) {
			hosts[fmt.Sprintf("outsider-%d-%d", i, family)] = []netip.Addr{addr}
		}
	}
	return hosts
}

// Fate is what became of a packet, and what should have.
type Fate struct {
	packet  policy.Packet
	verdict policy.Verdict
	lab.Result
}

// Wrong says whether the packet passed and should not have, or the other way
// round.
func (f Fate) Wrong() bool { return f.Arrived != f.Expect }

// Send sends random packets and judges them by the snapshot.
func Send(ctx context.Context, l *agreement.Cluster, r *rand.Rand, s policy.Snapshot, packets int) ([]Fate, error) {
	var fates []Fate
	var probes []lab.Probe
	for len(fates) < packets {
		packet := random.Packet(r, s)
		probe, ok := probeOf(l, s, packet)
		if !ok {
			continue
		}
		verdict := policy.Judge(s, packet, policy.JudgeOptions{})
		probe.Expect = verdict.At(random.Node)
		fates, probes = append(fates, Fate{packet: packet, verdict: verdict}), append(probes, probe)
	}
	results, err := l.Lab.Probe(ctx, probes)
	if err != nil {
		return nil, err
	}
	for i := range fates {
		fates[i].Result = results[i]
	}
	return fates, nil
}

// probeOf is how to send a packet. It reports false for one that the node's
// hooks don't see, or see otherwise than it was sent: test/agreement has those.
func probeOf(l *agreement.Cluster, s policy.Snapshot, p policy.Packet) (lab.Probe, bool) {
	probe := lab.Probe{From: l.Lab.Owner(p.Src), To: l.Lab.Owner(p.Dst), Packet: p}
	_, seen := random.Hook(s, p)
	if p.Hairpin {
		// Only to pods of the node's ranges leads a Service.
		probe.Packet.Dst = agreement.Hairpin(p.Dst)
		seen = seen && claimed(s, p.Dst) && slices.ContainsFunc(random.PodRanges, func(c netip.Prefix) bool { return c.Contains(p.Dst) })
	}
	seen = seen && (p.Hairpin || probe.From != probe.To) // else it does not leave its host
	// Judge speaks of what may begin; what begins nothing is test/agreement's.
	return probe, seen && random.Begins(p) && probe.From != nil && probe.To != nil
}

// Listing is a node's table as the kernel lists it, without counters, and without what
// packets have put into sets.
func Listing(l *agreement.Cluster, node *lab.Node) (string, error) {
	listing, err := l.Run(&node.Host, "", "nft", "--stateless", "list", "table", "inet", nft.TableName)
	return dynamic.ReplaceAllString(listing, "$1"), err
}

// dynamic is a set that packets are put into, up to its elements, and those.
var dynamic = regexp.MustCompile(`(?m)(^\t\tflags dynamic[^\n]*\n(?:\t\t[^e\n][^\n]*\n)*)\t\telements = \{[^}]*\}\n`)

// Describe is a packet's fate, with the objects that decide it: the pods that
// claim its addresses, their namespaces and the policies in these.
func Describe(s policy.Snapshot, f Fate) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n  verdict: %s; at %s it should pass: %t\n  passed: %t; sent %d times, seen at %v\n",
		f.packet, f.verdict, random.Node, f.Expect, f.Arrived, f.Sent, f.At)
	involved := map[string]bool{}
	for _, pod := range s.Pods {
		if claims(pod, f.packet.Src) || claims(pod, f.packet.Dst) {
			involved[pod.Namespace] = true
			write(&out, pod)
		}
	}
	for _, ns := range s.Namespaces {
		if involved[ns.Name] {
			write(&out, ns)
		}
	}
	for _, np := range s.Policies {
		if involved[np.Namespace] {
			write(&out, np)
		}
	}
	return out.String()
}

// claimed reports whether some pod claims an address.
func claimed(s policy.Snapshot, addr netip.Addr) bool {
	return slices.ContainsFunc(s.Pods, func(pod *corev1.Pod) bool { return claims(pod, addr) })
}

// claims reports whether a pod's status has an address.
func claims(pod *corev1.Pod, addr netip.Addr) bool {
	return slices.Contains(random.PodAddrsOf(pod), addr)
}

// write adds an object as YAML, without the notes on who wrote which field.
func write(out *strings.Builder, object client.Object) {
	object = object.DeepCopyObject().(client.Object)
	object.SetManagedFields(nil)
	text, err := yaml.Marshal(object)
	if err != nil {
		text = []byte(err.Error())
	}
	fmt.Fprintf(out, "--- # %T\n%s", object, text)
}
