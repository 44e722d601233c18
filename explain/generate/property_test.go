package generate_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain/generate"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

var (
	seed   = flag.Int64("seed", 1, "the first seed of the random clusters")
	rounds = flag.Int64("rounds", 40, "how many random clusters")
)

// randomTown is a cluster of workloads with random labels, of which some cannot be told apart, and ports with names
// that not all pods of a workload give.
func randomTown(r *rand.Rand) *town {
	c := newTown("shop", "db", "kube-system")
	c.pod("kube-system/coredns-1", "ReplicaSet/coredns-77", random.OtherNode, map[string]string{"k8s-app": "kube-dns"}, "dns 53/UDP", "dns-tcp 53/TCP")
	for w := range 8 {
		labels := map[string]string{}
		for len(labels) == 0 {
			labels = random.Labels(r)
		}
		ports := []string{"http 8080/TCP", "dns 53/UDP", "http 80/TCP", "admin 443/TCP"}[r.Intn(4):]
		for p := range 1 + r.Intn(3) {
			own := maps.Clone(labels)
			own["pod-template-hash"] = fmt.Sprint(w)
			if r.Intn(3) == 0 {
				own["app.kubernetes.io/version"] = fmt.Sprint(p)
			}
			has := ports
			if r.Intn(6) == 0 {
				has = nil
			}
			c.pod(fmt.Sprintf("%s/w%d-%d", []string{"shop", "db"}[w%2], w, p), fmt.Sprintf("StatefulSet/w%d", w), []string{random.Node, random.OtherNode}[r.Intn(2)], own, has...)
		}
	}
	return c
}

var numbers = []int{53, 80, 443, 8080, 9999}

// randomEnds are the ends of a packet of one family, mostly of pods.
func (c *town) randomEnds(r *rand.Rand) (from, to flows.Endpoint) {
	six := r.Intn(2) == 0
	pick := func() flows.Endpoint {
		family := 0
		if six {
			family = 1
		}
		switch r.Intn(8) {
		case 0:
			of := []netip.Addr{random.NodeAddrs[family], random.OtherNodeAddrs[family]}
			i := r.Intn(2)
			return node([]string{random.Node, random.OtherNode}[i], of[i].String())
		case 1:
			return flows.Endpoint{IP: random.Outside[2*family+r.Intn(2)]}
		}
		return at(c.Pods[r.Intn(len(c.Pods))], six)
	}
	return pick(), pick()
}

func (c *town) randomFlow(r *rand.Rand) *flows.Flow {
	from, to := c.randomEnds(r)
	f := flow(from, to, fmt.Sprintf("%s/%d", []string{"TCP", "TCP", "UDP", "SCTP"}[r.Intn(4)], numbers[r.Intn(len(numbers))]))
	if from.IP == to.IP { // by a Service, or it would never leave the pod
		asked("shop", "itself")(f)
	}
	return f
}

// wholes says of which policy the pods of a workload are; a workload without one is alone.
type wholes map[string]string

func wholesOf(policies []generate.Policy) wholes {
	w := wholes{}
	for _, p := range policies {
		for _, o := range p.Of {
			w[o.Namespace+"/"+o.Name] = "policy " + p.Namespace + "/" + p.Name
		}
	}
	return w
}

func (w wholes) of(c *town, e flows.Endpoint) (name string, fenced bool) {
	if e.Pod == "" {
		return e.IP.String(), false
	}
	at := slices.IndexFunc(c.Pods, func(p *corev1.Pod) bool { return p.Namespace == e.Namespace && p.Name == e.Pod })
	owner := e.Namespace + "/" + c.Pods[at].OwnerReferences[0].Name
	if whole := w[owner]; whole != "" {
		return whole, true
	}
	return owner, false
}

// TestGeneratedIsWhatWasSeen: with the generated policies alone, Judge lets pass what was seen, and nothing else between
// whomever policies are about but what the DNS is asked; each peer and port of each rule is needed; and the order of flows, and how often
// each was told, makes no difference to a byte.
func TestGeneratedIsWhatWasSeen(t *testing.T) {
	passed, denied, cuts, merged := 0, 0, 0, 0
	for s := *seed; s < *seed+*rounds; s++ {
		r := rand.New(rand.NewSource(s))
		c := randomTown(r)
		o := generate.Options{ShortestIPv4: 32, ShortestIPv6: 128, Rare: r.Intn(3), IsolateUnseen: r.Intn(3) == 0, Judge: policy.JudgeOptions{AllowToNode: r.Intn(2) == 0}}
		var seen []*flows.Flow
		for range 5 + r.Intn(25) {
			seen = append(seen, c.randomFlow(r))
		}
		text, result := c.generated(t, o, seen...)
		if !result.Report.Complete() || len(result.Report.Open) > 0 && len(result.Report.Alike) == 0 || len(result.Report.Unselectable) > 0 {
			t.Fatalf("seed %d: %s\n%s", s, reportOf(t, result), text)
		}
		merged += len(result.Report.Alike)
		in, w := c.in(result.Policies), wholesOf(result.Policies)
		used := map[string]bool{}
		key := func(f *flows.Flow) string {
			from, _ := w.of(c, f.Source)
			to, _ := w.of(c, f.Destination)
			return fmt.Sprintf("%s -> %s %s/%d", from, to, f.Protocol, f.Destination.Port)
		}
		var needed []*flows.Flow
		for _, f := range seen {
			used[key(f)] = true
			if f.Source.Pod == "" && f.Destination.Pod == "" {
				continue
			}
			passed++
			if v := policy.Judge(in, packetOf(f), o.Judge); !v.Allowed() {
				t.Fatalf("seed %d: %s was seen, and is denied: %s\n%s", s, key(f), v, text)
			}
			needed = append(needed, f)
		}
		for range 400 {
			f := c.randomFlow(r)
			_, from := w.of(c, f.Source)
			_, to := w.of(c, f.Destination)
			p := packetOf(f)
			v := policy.Judge(in, p, o.Judge)
			dns := f.Destination.Namespace == "kube-system" && f.Destination.Port == 53 && f.Protocol != "SCTP" && f.Source.Pod != ""
			decided := from && len(v.Egress.Isolating) > 0 || to && len(v.Ingress.Isolating) > 0
			// Nodes and their own pods, and a pod and itself, are not policies' business.
			free := v.Egress.Reason == "pods may reach their own node" || v.Ingress.Reason == "a node always reaches its own pods"
			if !decided || free || dns || used[key(f)] {
				continue
			}
			denied++
			if v.Allowed() {
				t.Fatalf("seed %d: %s was not seen, and passes: %s\n%s", s, key(f), v, text)
			}
		}
		for i := range result.Policies {
			whole := in.Policies[i]
			for _, cut := range without(result.Policies[i]) {
				cuts++
				in.Policies[i] = cut
				if !slices.ContainsFunc(needed, func(f *flows.Flow) bool { return !policy.Judge(in, packetOf(f), o.Judge).Allowed() }) {
					t.Fatalf("seed %d: something of policy %s is not needed:\n%+v\n%s", s, whole.Name, cut.Spec, text)
				}
			}
			in.Policies[i] = whole
		}
		again := slices.Concat(seen, seen[:len(seen)/2])
		r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		r.Shuffle(len(c.Pods), func(i, j int) { c.Pods[i], c.Pods[j] = c.Pods[j], c.Pods[i] })
		if other, _ := c.generated(t, o, again...); other != text {
			t.Fatalf("seed %d: the same flows in another order:\n%s\ninstead of\n%s", s, other, text)
		}
	}
	if passed < 100 || denied < 1000 || cuts < 100 || merged == 0 {
		t.Errorf("%d flows were seen, %d packets denied, %d things cut off, %d workloads alike", passed, denied, cuts, merged)
	}
	t.Logf("%d flows were seen, %d packets denied, %d things cut off, %d workloads alike", passed, denied, cuts, merged)
}
