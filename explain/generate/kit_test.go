package generate_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/generate"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// options are those of the tests: groups as the command has them, and nothing is rare.
var options = generate.Options{ShortestIPv4: 24, ShortestIPv6: 64}

// town is a cluster that a test builds.
type town struct {
	explain.Cluster
	next int
}

// newTown is a cluster of two nodes with namespaces.
func newTown(namespaces ...string) *town {
	c := &town{Cluster: explain.Cluster{Snapshot: policy.Snapshot{Nodes: random.Nodes()}}}
	for _, name := range namespaces {
		c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelMetadataName: name}}})
	}
	return c
}

// pod adds a pod, "namespace/name", of a workload "Kind/name" or of none, on a node, with ports of a container such as
// "http 8080/TCP".
func (c *town) pod(name, of, node string, labels map[string]string, ports ...string) *corev1.Pod {
	c.next++
	namespace, name, _ := strings.Cut(name, "/")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, addr := range random.PodAddrs(c.next, node) {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	if kind, owner, has := strings.Cut(of, "/"); has {
		yes := true
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, Controller: &yes}}
	}
	for _, text := range ports {
		p := corev1.ContainerPort{}
		var protocol string
		if _, err := fmt.Sscanf(strings.Replace(text, "/", " ", 1), "%s %d %s", &p.Name, &p.ContainerPort, &protocol); err != nil {
			panic(text)
		}
		p.Protocol = corev1.Protocol(protocol)
		pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, p)
	}
	c.Pods = append(c.Pods, pod)
	return pod
}

func app(name string) map[string]string { return map[string]string{"app": name} }

// at is a pod as the end of a flow, of its first address or, of IPv6, of its second.
func at(pod *corev1.Pod, six ...bool) flows.Endpoint {
	ip := pod.Status.PodIPs[0].IP
	if len(six) > 0 && six[0] {
		ip = pod.Status.PodIPs[1].IP
	}
	return flows.Endpoint{IP: netip.MustParseAddr(ip), Namespace: pod.Namespace, Pod: pod.Name, Labels: pod.Labels}
}

func outside(text string) flows.Endpoint { return flows.Endpoint{IP: netip.MustParseAddr(text)} }

func node(name, address string) flows.Endpoint {
	return flows.Endpoint{IP: netip.MustParseAddr(address), Node: name}
}

var clock = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// flow is a connection that has begun, "TCP/8080", from a source port that no other has.
func flow(from, to flows.Endpoint, how string, change ...func(*flows.Flow)) *flows.Flow {
	clock = clock.Add(time.Second)
	f := &flows.Flow{Time: clock, Node: "node-1", Verdict: flows.Allowed, Event: flows.Began, Source: from, Destination: to}
	protocol, number, _ := strings.Cut(how, "/")
	f.Protocol = protocol
	if _, err := fmt.Sscanf(number, "%d", &f.Destination.Port); err == nil {
		f.Source.Port = uint16(20000 + clock.Unix()%40000)
	}
	for _, c := range change {
		c(f)
	}
	return f
}

// asked says which Service a flow has asked for.
func asked(namespace, service string) func(*flows.Flow) {
	return func(f *flows.Flow) {
		f.Asked = &flows.Asked{IP: netip.MustParseAddr("10.96.0.1"), Port: 80, Namespace: namespace, Service: service}
	}
}

// generated is what comes of flows, as YAML.
func (c *town) generated(t *testing.T, o generate.Options, seen ...*flows.Flow) (string, *generate.Result) {
	t.Helper()
	r := generate.Generate(&c.Cluster, generate.Seen{Flows: seen}, o)
	return yamlOf(t, r), r
}

func yamlOf(t *testing.T, r *generate.Result) string {
	t.Helper()
	var out bytes.Buffer
	for i := range r.Policies {
		out.WriteString("---\n")
		if err := r.Policies[i].WriteYAML(&out); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func reportOf(t *testing.T, r *generate.Result) string {
	t.Helper()
	var out bytes.Buffer
	if err := r.Report.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// in is a snapshot with these policies alone.
func (c *town) in(policies []generate.Policy) policy.Snapshot {
	s := c.Snapshot
	s.Policies = nil
	for _, p := range policies {
		s.Policies = append(s.Policies, p.NetworkPolicy)
	}
	return s
}

// packetOf is the first packet of a flow.
func packetOf(f *flows.Flow) policy.Packet {
	protocols := map[string]policy.Protocol{"TCP": policy.TCP, "UDP": policy.UDP, "SCTP": policy.SCTP}
	return policy.Packet{Src: f.Source.IP, Dst: f.Destination.IP, Protocol: protocols[f.Protocol], DstPort: f.Destination.Port, HopLimit: 64, Hairpin: f.Source.IP == f.Destination.IP}
}

// without is a policy without one of the peers or ports of its rules, but for those of the DNS.
func without(p generate.Policy) (all []*networkingv1.NetworkPolicy) {
	np := p.NetworkPolicy
	less := func(cut func(*networkingv1.NetworkPolicySpec)) {
		out := np.DeepCopy()
		cut(&out.Spec)
		all = append(all, out)
	}
	for i, r := range np.Spec.Ingress {
		if strings.Contains(p.Comments[fmt.Sprintf("spec.ingress[%d]", i)], "DNS") {
			continue
		}
		for j := range r.From {
			less(func(s *networkingv1.NetworkPolicySpec) {
				s.Ingress[i].From = slices.Delete(s.Ingress[i].From, j, j+1)
				if len(s.Ingress[i].From) == 0 {
					s.Ingress = slices.Delete(s.Ingress, i, i+1)
				}
			})
		}
		for j := range r.Ports {
			less(func(s *networkingv1.NetworkPolicySpec) {
				s.Ingress[i].Ports = slices.Delete(s.Ingress[i].Ports, j, j+1)
				if len(s.Ingress[i].Ports) == 0 {
					s.Ingress = slices.Delete(s.Ingress, i, i+1)
				}
			})
		}
	}
	for i, r := range np.Spec.Egress[1:] { // the first is the DNS's
		for j := range r.To {
			less(func(s *networkingv1.NetworkPolicySpec) {
				s.Egress[i+1].To = slices.Delete(s.Egress[i+1].To, j, j+1)
				if len(s.Egress[i+1].To) == 0 {
					s.Egress = slices.Delete(s.Egress, i+1, i+2)
				}
			})
		}
		for j := range r.Ports {
			less(func(s *networkingv1.NetworkPolicySpec) {
				s.Egress[i+1].Ports = slices.Delete(s.Egress[i+1].Ports, j, j+1)
				if len(s.Egress[i+1].Ports) == 0 {
					s.Egress = slices.Delete(s.Egress, i+1, i+2)
				}
			})
		}
	}
	return all
}
