package semantics_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// The labs are shared, as making one costs more than most tests. Tests take
// turns, and begin by replacing the table.
var labs = map[lab.Attach]*agreement.Cluster{}

func TestMain(m *testing.M) {
	code := m.Run()
	var errs []error
	for _, c := range labs {
		errs = append(errs, c.Close())
	}
	if err := errors.Join(append(errs, untested())...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// fenced is a cluster on a fenced node.
type fenced struct {
	*agreement.Cluster
	t *testing.T
	s policy.Snapshot
}

// cluster makes the shared lab of routed pods the cluster that the text says.
func cluster(t *testing.T, text string) *fenced {
	t.Helper()
	return clusterWith(t, lab.Routed, ruleset.Options{}, text)
}

func clusterWith(t *testing.T, attach lab.Attach, o ruleset.Options, text string) *fenced {
	t.Helper()
	if labs[attach] == nil {
		if err := lab.Check(); err != nil {
			skip(t, err)
		}
		made, err := agreement.New(agreement.Options{Attach: attach, Lab: lab.Options{Settle: 60 * time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		labs[attach] = made
	}
	c := &fenced{Cluster: labs[attach], t: t, s: snapshot(t, text)}
	if err := c.Replace(c.s, o); err != nil {
		t.Fatal(err)
	}
	return c
}

// becomes changes the cluster to what the text says, by an incremental plan.
func (c *fenced) becomes(text string) {
	c.t.Helper()
	c.set(snapshot(c.t, text))
}

func (c *fenced) set(s policy.Snapshot) nft.Plan {
	c.t.Helper()
	c.s = s
	plan, err := c.Set(s)
	if err != nil {
		c.t.Fatalf("%v\n%s", err, plan.Text())
	}
	return plan
}

// nft loads a table of the test's own into the node, and takes it away when
// the test ends.
func (c *fenced) nft(family, name, body string) {
	c.t.Helper()
	table := family + " " + name
	if err := c.NFT(fmt.Sprintf("table %s\ndelete table %s\ntable %s {\n%s\n}", table, table, table, body)); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := c.NFT("delete table " + table); err != nil {
			c.t.Error(err)
		}
	})
}

// host is a host of the lab: a pod, "node", or one of agreement's others.
func (c *fenced) host(name string) *lab.Host {
	c.t.Helper()
	if name == "node" {
		return &c.Node.Host
	}
	h := c.Lab.Host(name)
	if h == nil {
		c.t.Fatalf("no host %s in the lab", name)
	}
	return h
}

// snapshot reads a cluster: the nodes of package random and, one to a line or
// going on in the next ones,
//
//	ns NAME key=value ...
//	pod NAMESPACE/NAME key=value ... port:number[/protocol] ... @NODE !ODD ...
//	policy NAMESPACE/NAME YAML of the spec
//	cnp NAME YAML of the spec of a ClusterNetworkPolicy
//	node NAME key=value ... TYPE:ADDRESS ...
//
// The last adds labels and addresses to a node.
// Namespaces that are not declared have kubernetes.io/metadata.name, as the
// API server gives it. Policies are not defaulted: what a manifest leaves out
// is what is tested.
func snapshot(t *testing.T, text string) policy.Snapshot {
	t.Helper()
	s := policy.Snapshot{Nodes: random.Nodes()}
	declared := map[string]bool{}
	for _, item := range items(text) {
		kind, rest, _ := strings.Cut(item, " ")
		name, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
		space, short, _ := strings.Cut(name, "/")
		switch kind {
		case "ns":
			declared[name] = true
			s.Namespaces = append(s.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labelsOf(rest)}})
		case "pod":
			s.Pods = append(s.Pods, pod(t, space, short, rest))
		case "policy":
			np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: short}}
			if err := yaml.UnmarshalStrict([]byte(rest), &np.Spec); err != nil {
				t.Fatalf("policy %s: %v", name, err)
			}
			s.Policies = append(s.Policies, np)
		case "cnp":
			cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if err := yaml.UnmarshalStrict([]byte(rest), &cnp.Spec); err != nil {
				t.Fatalf("cnp %s: %v", name, err)
			}
			s.ClusterPolicies = append(s.ClusterPolicies, cnp)
		case "node":
			node := s.Nodes[slices.IndexFunc(s.Nodes, func(n *corev1.Node) bool { return n.Name == name })]
			node.Labels = labelsOf(rest)
			for _, word := range strings.Fields(rest) {
				if kind, address, is := strings.Cut(word, ":"); is {
					node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeAddressType(kind), Address: address})
				}
			}
		default:
			t.Fatalf("cluster: what is %q?", item)
		}
	}
	for _, p := range s.Pods {
		if !declared[p.Namespace] {
			declared[p.Namespace] = true
			s.Namespaces = append(s.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: p.Namespace, Labels: map[string]string{corev1.LabelMetadataName: p.Namespace},
			}})
		}
	}
	return s
}

// items are the lines, each with those that it goes on in.
func items(text string) (items []string) {
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		kind, _, _ := strings.Cut(line, " ")
		switch {
		case line == "":
		case slices.Contains([]string{"ns", "pod", "policy", "cnp", "node"}, kind) || len(items) == 0:
			items = append(items, line)
		default:
			items[len(items)-1] += " " + line
		}
	}
	return items
}

func labelsOf(text string) map[string]string {
	l := map[string]string{}
	for _, word := range strings.Fields(text) {
		if key, value, is := strings.Cut(word, "="); is && !strings.HasPrefix(word, "!") {
			l[key] = value
		}
	}
	return l
}

// addresses gives each pod name the same addresses in all tests, so that the
// labs' hosts can be used again.
var addresses = map[string]int{}

func pod(t *testing.T, namespace, name, words string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), Labels: labelsOf(words),
			CreationTimestamp: metav1.Unix(1700000000, 0),
		},
		Spec:   corev1.PodSpec{NodeName: random.Node, Containers: []corev1.Container{{Name: "main"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	var odd []string
	for _, word := range strings.Fields(words) {
		switch {
		case strings.HasPrefix(word, "@"):
			p.Spec.NodeName = word[1:]
		case strings.HasPrefix(word, "!"):
			odd = append(odd, word[1:])
		case strings.Contains(word, "="): // a label
		default:
			port(t, p, word)
		}
	}
	key := p.Spec.NodeName + " " + namespace + "/" + name
	if _, known := addresses[key]; !known {
		addresses[key] = 8 + len(addresses)
	}
	for _, addr := range random.PodAddrs(addresses[key], p.Spec.NodeName) {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	for _, word := range odd {
		oddity(t, p, word)
	}
	return p
}

// oddity makes a pod one that is not just running on the pod network.
func oddity(t *testing.T, p *corev1.Pod, word string) {
	t.Helper()
	switch key, value, _ := strings.Cut(word, "="); key {
	case "hostNetwork":
		p.Spec.HostNetwork = true
		oddity(t, p, "of="+p.Spec.NodeName)
	case "of": // the addresses of a node
		own := random.NodeAddrs
		if value == random.OtherNode {
			own = random.OtherNodeAddrs
		}
		p.Status.PodIPs = nil
		for _, addr := range own {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
	case "phase":
		p.Status.Phase = corev1.PodPhase(value)
	case "terminating":
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1800000000, 0)}
	case "noip":
		p.Status.PodIPs = nil
	case "v4only":
		p.Status.PodIPs = p.Status.PodIPs[:1]
	case "at": // the addresses of another pod of the node
		p.Status.PodIPs = nil
		for _, addr := range random.PodAddrs(addresses[random.Node+" "+value], random.Node) {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
	case "started":
		seconds, err := strconv.Atoi(value)
		if err != nil {
			t.Fatal(err)
		}
		started := metav1.Unix(1700000000+int64(seconds), 0)
		p.Status.StartTime = &started
	default:
		t.Fatalf("pod %s/%s: what is !%s?", p.Namespace, p.Name, word)
	}
}

// port adds [container:]name:number[/protocol] to a pod. The containers are
// main, another, init, and sidecar, an init container that goes on running.
func port(t *testing.T, p *corev1.Pod, word string) {
	t.Helper()
	parts := strings.Split(word, ":")
	container := "main"
	if len(parts) == 3 {
		container, parts = parts[0], parts[1:]
	}
	number, protocol, _ := strings.Cut(parts[len(parts)-1], "/")
	value, err := strconv.Atoi(number)
	if err != nil || len(parts) != 2 {
		t.Fatalf("pod %s/%s: what is %q?", p.Namespace, p.Name, word)
	}
	cp := corev1.ContainerPort{Name: parts[0], ContainerPort: int32(value), Protocol: corev1.Protocol(strings.ToUpper(protocol))}
	always := corev1.ContainerRestartPolicyAlways
	switch container {
	case "main":
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, cp)
	case "another":
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: container, Ports: []corev1.ContainerPort{cp}})
	case "init":
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: container, Ports: []corev1.ContainerPort{cp}})
	case "sidecar":
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: container, RestartPolicy: &always, Ports: []corev1.ContainerPort{cp}})
	case "ephemeral": // no API server takes its ports
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: container, Ports: []corev1.ContainerPort{cp}}})
	default:
		t.Fatalf("pod %s/%s: no container %s", p.Namespace, p.Name, container)
	}
}
