// Package bench measures the time from the API server's answer to a change
// until the first packet gets the verdict that the change means: a real API
// server, an agent, and real packets between two pods of a lab's node.
//
//	KUBEBUILDER_ASSETS=$PWD/bin/assets go test ./test/bench -run '^$' -bench . -benchtime 200x
package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/scale"
)

// sizes are the loads: pods elsewhere in the cluster, and policies of theirs.
var sizes = []scale.Size{
	{Namespaces: 1},
	{Pods: 5_000, Namespaces: 50, Policies: 500},
	{Pods: 20_000, Namespaces: 200, Policies: 2_000},
}

const (
	namespace = "measured"
	// every is the time between two packets, and so the resolution.
	every = 200 * time.Microsecond
	// quiet is how long no packet may arrive for the way to count as closed.
	quiet = 50 * time.Millisecond
	port  = 7000
)

var clientIP, serverIP = netip.MustParseAddr("10.250.0.2"), netip.MustParseAddr("10.250.0.3")

func BenchmarkChange(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		b.Skip("skipped: KUBEBUILDER_ASSETS must name the folder with kube-apiserver and etcd: make envtest-assets")
	}
	ctrl.SetLogger(logr.Discard())
	for _, size := range sizes {
		b.Run(fmt.Sprintf("pods=%d/policies=%d", size.Pods, size.Policies), func(b *testing.B) {
			environment := &envtest.Environment{BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: 2 * time.Minute}
			config, err := environment.Start()
			b.Cleanup(func() { must(b, environment.Stop()) })
			must(b, err)
			config.QPS, config.Burst = -1, -1
			api, err := kubernetes.NewForConfig(config)
			must(b, err)
			fill(b, api, size)
			w := newWay(b)
			startAgent(b, w.node, config)
			measureLabels(b, api, w)
			measurePolicies(b, api, w)
		})
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// fill creates the load and the two pods that talk.
func fill(b *testing.B, api *kubernetes.Clientset, size scale.Size) {
	b.Helper()
	ctx := context.Background()
	each(b, len(size.Nodes()), func(n int) error {
		node := size.Nodes()[n]
		created, err := api.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		created.Status = node.Status
		_, err = api.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{})
		return err
	})
	each(b, size.Namespaces, func(n int) error {
		_, err := api.CoreV1().Namespaces().Create(ctx, scale.Namespace(n), metav1.CreateOptions{})
		return err
	})
	each(b, size.Policies, func(n int) error {
		np := size.Policy(n)
		_, err := api.NetworkingV1().NetworkPolicies(np.Namespace).Create(ctx, np, metav1.CreateOptions{})
		return err
	})
	_, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(b, err)
	each(b, size.Pods, func(n int) error { return createPod(api, size.Pod(n)) })
	for name, ip := range map[string]netip.Addr{"client": clientIP, "server": serverIP} {
		must(b, createPod(api, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name, "friend": "yes"}},
			Spec:       corev1.PodSpec{NodeName: scale.Node, Containers: []corev1.Container{{Name: "main"}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip.String(), PodIPs: []corev1.PodIP{{IP: ip.String()}}},
		}))
	}
}

func createPod(api *kubernetes.Clientset, pod *corev1.Pod) error {
	ctx := context.Background()
	pod.UID = ""
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].Image = "image"
	}
	no, none := false, int64(0)
	pod.Spec.AutomountServiceAccountToken, pod.Spec.TerminationGracePeriodSeconds = &no, &none
	status := pod.Status
	created, err := api.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	created.Status = status
	_, err = api.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}

// each calls do for 0 to n-1, some at once.
func each(b *testing.B, n int, do func(int) error) {
	b.Helper()
	var wg sync.WaitGroup
	next, errs := make(chan int), make(chan error, 1)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	select {
	case err := <-errs:
		b.Fatal(err)
	default:
	}
}

// startAgent runs an agent for the node until the benchmark ends, and waits
// until it enforces.
func startAgent(b *testing.B, node *lab.Node, config *rest.Config) {
	b.Helper()
	const mark = 1 << 29
	options := kernel.Options{NetNS: node.NetNS()}
	conn, err := kernel.Open(options)
	must(b, err)
	flows, err := kernel.OpenFlows(options, mark)
	must(b, err)
	agent, err := controllers.NewAgent(conn, controllers.Options{
		Node: scale.Node, API: config, MetricsAddress: "0", HealthAddress: "0",
		Flows: flows, Ruleset: ruleset.Options{RevokedMark: mark}, Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- agent.Start(ctx) }()
	b.Cleanup(func() {
		cancel()
		must(b, errors.Join(<-stopped, conn.Close(), flows.Close()))
	})
	for deadline := time.Now().Add(time.Minute); agent.Enforcer.Ready(nil) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatal("the agent is not ready")
		}
	}
}

// way is the packets from client to server: one every so often, each of a new
// flow, with the time at which it was sent.
type way struct {
	node *lab.Node

	mu      sync.Mutex
	arrived []time.Duration // when they were sent
}

var began = time.Now()

func newWay(b *testing.B) *way {
	b.Helper()
	l, err := lab.New(lab.Options{})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
	node, err := l.AddNode(scale.Node, netip.MustParseAddr("172.16.0.1"))
	must(b, err)
	client, err := node.AddPod("client", lab.PodOptions{IPs: []netip.Addr{clientIP}})
	must(b, err)
	server, err := node.AddPod("server", lab.PodOptions{IPs: []netip.Addr{serverIP}})
	must(b, err)
	// Five thousand flows a second; the table must not fill.
	must(b, node.SetSysctl("net/netfilter/nf_conntrack_udp_timeout", "1"))
	w := &way{node: node}

	var receiver *net.UDPConn
	must(b, server.Do(func() (err error) {
		receiver, err = net.ListenUDP("udp4", &net.UDPAddr{IP: serverIP.AsSlice(), Port: port})
		return err
	}))
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		buffer := make([]byte, 64)
		for {
			n, _, err := receiver.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return // closed
			}
			if n == 8 {
				w.mu.Lock()
				w.arrived = append(w.arrived, time.Duration(binary.BigEndian.Uint64(buffer)))
				w.mu.Unlock()
			}
		}
	}()
	go func() {
		stopped <- client.Do(func() error {
			target := &net.UDPAddr{IP: serverIP.AsSlice(), Port: port}
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				conn, err := net.DialUDP("udp4", nil, target)
				if err != nil {
					return err
				}
				// What the server's node answers to an earlier one is no error here.
				_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, uint64(time.Since(began))))
				if err := conn.Close(); err != nil {
					return err
				}
				time.Sleep(every)
			}
		})
	}()
	b.Cleanup(func() {
		close(stop)
		must(b, errors.Join(<-stopped, receiver.Close()))
	})
	return w
}

// closes waits until nothing arrives any more, and returns when what came last
// was sent.
func (w *way) closes(b *testing.B) time.Duration {
	b.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		last := time.Duration(0)
		if len(w.arrived) > 0 {
			last = w.arrived[len(w.arrived)-1]
		}
		w.mu.Unlock()
		if time.Since(began)-last > quiet {
			return last
		}
		if time.Now().After(deadline) {
			b.Fatal("the way does not close")
		}
	}
}

// opens waits until something arrives that was sent after a time, and returns
// when the first of that was sent.
func (w *way) opens(b *testing.B, after time.Duration) time.Duration {
	b.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		at := slices.IndexFunc(w.arrived, func(sent time.Duration) bool { return sent > after })
		first := time.Duration(0)
		if at >= 0 {
			first = w.arrived[at]
		}
		w.mu.Unlock()
		if at >= 0 {
			return first
		}
		if time.Now().After(deadline) {
			b.Fatal("the way does not open")
		}
	}
}

func (w *way) forget() {
	w.mu.Lock()
	w.arrived = nil
	w.mu.Unlock()
}

// measure alternates two changes, and reports how long after the API server's
// answer each was in force.
func (w *way) measure(b *testing.B, name string, shut, open func() error) {
	b.Run(name, func(b *testing.B) {
		var closing, opening []time.Duration
		for range b.N {
			w.forget()
			must(b, shut())
			answered := time.Since(began)
			closing = append(closing, max(0, w.closes(b)-answered))
			w.forget()
			must(b, open())
			answered = time.Since(began)
			opening = append(opening, w.opens(b, answered)-answered)
		}
		for kind, all := range map[string][]time.Duration{"close": closing, "open": opening} {
			slices.Sort(all)
			for unit, at := range map[string]int{"p50": len(all) / 2, "p99": len(all) * 99 / 100, "max": len(all) - 1} {
				b.ReportMetric(float64(all[at].Microseconds())/1000, kind+"-"+unit+"-ms")
			}
		}
		b.ReportMetric(0, "ns/op")
	})
}

// friendsOnly lets pods labelled friend=yes into the server.
func friendsOnly(name string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "server"}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
				PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"friend": "yes"}},
			}}}},
		},
	}
}

func measureLabels(b *testing.B, api *kubernetes.Clientset, w *way) {
	ctx := context.Background()
	policies := api.NetworkingV1().NetworkPolicies(namespace)
	_, err := policies.Create(ctx, friendsOnly("friends-only"), metav1.CreateOptions{})
	must(b, err)
	w.opens(b, time.Since(began))
	label := func(value string) func() error {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{"friend": value}}})
		must(b, err)
		return func() error {
			_, err := api.CoreV1().Pods(namespace).Patch(ctx, "client", types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		}
	}
	w.measure(b, "label", label("no"), label("yes"))
	must(b, policies.Delete(ctx, "friends-only", metav1.DeleteOptions{}))
}

func measurePolicies(b *testing.B, api *kubernetes.Clientset, w *way) {
	ctx := context.Background()
	policies := api.NetworkingV1().NetworkPolicies(namespace)
	deny := friendsOnly("deny")
	deny.Spec.Ingress = nil
	w.measure(b, "policy", func() error {
		_, err := policies.Create(ctx, deny, metav1.CreateOptions{})
		return err
	}, func() error {
		return policies.Delete(ctx, "deny", metav1.DeleteOptions{})
	})
}
