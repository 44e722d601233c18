//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
)

// TestDNS: pods of both nodes resolve names of Services and of single pods, by
// UDP and by TCP, also when they are isolated and DNS is all they may use.
func TestDNS(t *testing.T) {
	namespace := newNamespace(t)
	member := func(p *corev1.Pod) { p.Labels["app"], p.Spec.Hostname, p.Spec.Subdomain = "member", p.Name, "members" }
	members := start(t, newPod(namespace, "one", on("node1"), member), newPod(namespace, "two", on("node2"), member))
	service := newService(t, namespace, "service", "member")
	newService(t, namespace, "members", "member", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })

	domain := "." + namespace + ".svc.cluster.local"
	names := map[string][]string{
		"service" + domain: service.Spec.ClusterIPs,
		"members" + domain: slices.Concat(podIPs(members[0]), podIPs(members[1])),
	}
	for _, pod := range members {
		names[pod.Name+".members"+domain] = podIPs(pod)
	}
	resolve := func(t *testing.T) {
		for _, network := range []string{"udp", "tcp"} {
			for name, want := range names {
				check.Eventually(t, seenWithin, name+" to resolve by "+network, func() error { return resolves(t, members, network, name, want) })
			}
		}
	}
	connect := func() (all []way) {
		one, two := netnsOf(t, members[0]), netnsOf(t, members[1])
		return append(waysToPod("one", one, members[1]), waysToPod("two", two, members[0])...)
	}()
	t.Run("open", func(t *testing.T) {
		resolve(t)
		expectWays(t, "pods to reach each other", connect, nil)
		// As a program does it: by the pod's resolv.conf, with its search domains.
		for _, pod := range members {
			for _, name := range []string{"service", "service." + namespace + ".svc"} {
				check.Eventually(t, seenWithin, pod.Name+" to call "+name, func() error {
					return callsByName(pod.Name, netnsOf(t, pod), name, 80, "one", "two")
				})
			}
		}
	})
	t.Run("isolated", func(t *testing.T) {
		enforce(t, denyAll(namespace))
		expectWays(t, "isolated pods to be out of reach", nil, connect)
		for _, network := range []string{"udp", "tcp"} {
			nothing := func() error { return resolvesNothing(t, members, network, "service"+domain) }
			check.Eventually(t, seenWithin, "names not to resolve by "+network, nothing)
			for range staysFor {
				if err := nothing(); err != nil {
					t.Error(err)
				}
			}
		}
		enforce(t, egressToDNS(t, namespace, "app", "member"))
		resolve(t)
		expectWays(t, "pods with DNS to be out of reach", nil, connect)
	})
}

// dnsAddress is cluster DNS's, by its Service.
const dnsAddress = "10.96.0.10:53"

// lookUp asks cluster DNS for a name's addresses, by UDP or TCP, from a network
// namespace.
func lookUp(podNetNS, network, name string, limit time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		err = netns.InsidePath(podNetNS, func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, dnsAddress)
			return err
		})
		return conn, err
	}}
	return resolver.LookupHost(ctx, name+".") // with the dot, no search domains of this machine's
}

// resolves fails unless each pod gets exactly these addresses for a name.
func resolves(t *testing.T, pods []*corev1.Pod, network, name string, want []string) error {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	for _, pod := range pods {
		got, err := lookUp(netnsOf(t, pod), network, name, allowedWithin)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			return fmt.Errorf("%s asks by %s for %s: %s, want %s: %v", pod.Name, network, name, got, want, err)
		}
	}
	return nil
}

// resolvesNothing fails unless each pod's question gets no answer.
func resolvesNothing(t *testing.T, pods []*corev1.Pod, network, name string) error {
	t.Helper()
	for _, pod := range pods {
		got, err := lookUp(netnsOf(t, pod), network, name, deniedAfter)
		var failed *net.DNSError
		if !errors.As(err, &failed) || !failed.IsTimeout {
			return fmt.Errorf("%s asks by %s for %s, and must get no answer: %s, %v", pod.Name, network, name, got, err)
		}
	}
	return nil
}

// callsByName has a pod's program call a server by name, and fails unless one of
// the given answers. It is asked to by the pod's own loopback.
func callsByName(name, podNetNS, host string, port int, answers ...string) error {
	w := way{name: name, podNetNS: podNetNS, network: "tcp", address: "127.0.0.1:8080"}
	text, err := w.ask(fmt.Sprintf("dial?protocol=http&request=hostname&host=%s&port=%d", host, port), 2*allowedWithin)
	if err != nil {
		return err
	}
	var said struct{ Responses, Errors []string }
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	if len(said.Responses) != 1 || !slices.Contains(answers, said.Responses[0]) {
		return fmt.Errorf("%s calls %s: answered by %s, errors %s", name, host, said.Responses, strings.Join(said.Errors, "; "))
	}
	return nil
}

// egressToDNS is the policy of config/samples that lets pods ask cluster DNS,
// for those labelled KEY=VALUE.
func egressToDNS(t *testing.T, namespace, key, value string) *networkingv1.NetworkPolicy {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "samples", "allow_dns.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	np := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict(text, np); err != nil {
		t.Fatal(err)
	}
	np.Namespace, np.Spec.PodSelector = namespace, metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	return np
}
