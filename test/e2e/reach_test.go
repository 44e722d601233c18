//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

const (
	// seenWithin is how long a change may take to be seen in what packets get: the
	// machine may be busy, the change itself takes milliseconds.
	seenWithin = time.Minute
	// deniedAfter is how long a packet may stay away to count as dropped,
	// allowedWithin how long an answer may take.
	deniedAfter, allowedWithin = time.Second, 5 * time.Second
	// staysFor is how often in a row each way is tried once it is as wanted.
	staysFor = 3
)

// way is one that a packet could take: from a network namespace to an address,
// behind which a pod of newPod's answers.
type way struct {
	name, podNetNS   string
	network, address string // tcp or udp, and a literal
	// foreign servers don't speak as newPod's do: to connect is enough.
	foreign bool
}

func (w way) String() string { return fmt.Sprintf("%s -> %s %s", w.name, w.network, w.address) }

// ways are those by TCP and UDP to ports of addresses; port 0 is none.
func ways(name, podNetNS string, ips []string, tcp, udp int32) (all []way) {
	for _, ip := range ips {
		if tcp != 0 {
			all = append(all, way{name: name, podNetNS: podNetNS, network: "tcp", address: hostPort(ip, uint16(tcp))})
		}
		if udp != 0 {
			all = append(all, way{name: name, podNetNS: podNetNS, network: "udp", address: hostPort(ip, uint16(udp))})
		}
	}
	return all
}

// waysToPod are those to newPod's ports, at each of the pod's addresses.
func waysToPod(name, podNetNS string, to *corev1.Pod) []way {
	return ways(name, podNetNS, podIPs(to), 8080, 8081)
}

// ask sends what newPod's pods know to answer, hostname or clientip, and
// returns the answer.
func (w way) ask(question string, limit time.Duration) (answer string, err error) {
	deadline := time.Now().Add(limit)
	var conn net.Conn
	err = netns.InsidePath(w.podNetNS, func() error {
		conn, err = (&net.Dialer{Deadline: deadline}).Dial(w.network, w.address)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if w.foreign {
		return "connected", nil
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if w.network == "udp" {
		if _, err := io.WriteString(conn, question); err != nil {
			return "", err
		}
		buffer := make([]byte, 1500)
		n, err := conn.Read(buffer)
		return string(buffer[:n]), err
	}
	if _, err := fmt.Fprintf(conn, "GET /%s HTTP/1.0\r\n\r\n", question); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// opens tells whether a way is open.
func (w way) opens() error {
	answer, err := w.ask("hostname", allowedWithin)
	if err == nil && answer == "" {
		err = errors.New("an empty answer")
	}
	if err != nil {
		return fmt.Errorf("%s: must be allowed: %w", w, err)
	}
	return nil
}

// closed tells whether a way is. What is denied gets no answer of any kind: one
// that says "refused" or "no route" is not podfence's.
func (w way) closed() error {
	answer, err := w.ask("hostname", deniedAfter)
	var timeout net.Error
	switch {
	case err == nil:
		return fmt.Errorf("%s: must be denied: %s answered", w, answer)
	case !errors.As(err, &timeout) || !timeout.Timeout():
		return fmt.Errorf("%s: must be denied without an answer: %w", w, err)
	}
	return nil
}

// expectWays waits until some ways are open and others closed, and sees that this
// stays so. A test that expects a way to be closed must expect it open at
// another time.
func expectWays(t *testing.T, what string, open, closed []way) {
	t.Helper()
	try := func() error {
		errs := make([]error, len(open)+len(closed))
		var wg sync.WaitGroup
		for i, w := range open {
			wg.Go(func() { errs[i] = w.opens() })
		}
		for i, w := range closed {
			wg.Go(func() { errs[len(open)+i] = w.closed() })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	check.Eventually(t, seenWithin, what, try)
	for range staysFor {
		if err := try(); err != nil {
			t.Fatalf("%s: it was so, and then no more: %v", what, err)
		}
	}
}

// labelled gives a pod one label more.
func labelled(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[key] = value }
}

func podIPs(pod *corev1.Pod) (ips []string) {
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	return ips
}

// nodeIPs are a node's addresses, as its Node object has them.
func nodeIPs(t *testing.T, name string) (ips []string) {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ips = append(ips, a.Address)
		}
	}
	return ips
}

// outsideIPs are the addresses of the control plane's host. It is no node, so
// to podfence it is the world outside.
func outsideIPs(t *testing.T) (ips []string) {
	t.Helper()
	err := netns.InsidePath(theCluster.HostNetNS("cp"), func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := eth0.Addrs()
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil {
				return err
			}
			if prefix.Addr().Is4() || theCluster.IPFamily == cluster.Dual && !prefix.Addr().IsLinkLocalUnicast() {
				ips = append(ips, prefix.Addr().String())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ips
}

// newService is a Service for the pods labelled app=APP: port 80 leads to their
// 8080 by TCP and their 8081 by UDP, in all families of the cluster.
func newService(t *testing.T, namespace, name, app string, change ...func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	families := corev1.IPFamilyPolicyPreferDualStack
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector:       map[string]string{"app": app},
			IPFamilyPolicy: &families,
			Ports: []corev1.ServicePort{
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)},
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 80, TargetPort: intstr.FromInt32(8081)},
			},
		},
	}
	for _, c := range change {
		c(&service.Spec)
	}
	service, err := client.CoreV1().Services(namespace).Create(context.Background(), service, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

func nodePort(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, policy
	}
}

// waysToService are those to a Service's own addresses.
func waysToService(name, podNetNS string, to *corev1.Service) []way {
	return ways(name, podNetNS, to.Spec.ClusterIPs, 80, 80)
}

// waysToNodePort are those to a Service's ports at a node's addresses.
func waysToNodePort(t *testing.T, name, podNetNS, node string, to *corev1.Service) []way {
	return ways(name+" by "+node, podNetNS, nodeIPs(t, node), to.Spec.Ports[0].NodePort, to.Spec.Ports[1].NodePort)
}

// ingressFrom is a policy that isolates the pods labelled app=APP, but for peers.
func ingressFrom(namespace, app string, from ...networkingv1.NetworkPolicyPeer) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "ingress-"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	if len(from) > 0 { // a rule without peers would mean all
		np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: from}}
	}
	return np
}

// egressTo is the same for what the pods labelled KEY=VALUE send.
func egressTo(namespace, key, value string, to ...networkingv1.NetworkPolicyPeer) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "egress-"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{key: value}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		},
	}
	if len(to) > 0 {
		np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: to}}
	}
	return np
}

// podsWith is a peer: the pods of the policy's namespace with that label.
func podsWith(key, value string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}}
}

// blocks are peers: these addresses alone.
func blocks(ips ...string) (peers []networkingv1.NetworkPolicyPeer) {
	for _, ip := range ips {
		addr := netip.MustParseAddr(ip)
		peers = append(peers, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: netip.PrefixFrom(addr, addr.BitLen()).String()}})
	}
	return peers
}

// enforce creates policies, and deletes them at the end of the test.
func enforce(t *testing.T, policies ...*networkingv1.NetworkPolicy) {
	t.Helper()
	for _, np := range policies {
		np = apply(t, np)
		t.Cleanup(func() {
			if err := client.NetworkingV1().NetworkPolicies(np.Namespace).Delete(context.Background(), np.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}
