package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

const (
	namespace = "measured"
	// every is the time between two packets, and so the resolution.
	every = 200 * time.Microsecond
	// quiet is how long no packet may arrive for the way to count as closed.
	quiet = 50 * time.Millisecond
	// late is how long a change may take at all.
	late = 30 * time.Second
	port = 7000
)

var (
	clientIP, serverIP = netip.MustParseAddr("10.250.0.2"), netip.MustParseAddr("10.250.0.3")
	began              = time.Now()
)

// newNode makes a node without pods, in a lab of its own.
func newNode(b testing.TB) *lab.Node {
	b.Helper()
	l, err := lab.New(lab.Options{})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
	node, err := l.AddNode(scale.Node, netip.MustParseAddr("172.16.0.1"))
	must(b, err)
	return node
}

// way is the packets from one pod of a node to another: one every so often, each
// of a new flow, with the time at which it was sent.
type way struct {
	mu      sync.Mutex
	arrived []time.Duration // when they were sent, since began
}

// newWay makes the two pods, in the cluster and on the node, and has the one send
// until the benchmark ends.
func newWay(b *testing.B, c *cluster, node *lab.Node) *way {
	b.Helper()
	_, err := c.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(b, err)
	pods := map[string]*lab.Host{}
	for name, ip := range map[string]netip.Addr{"client": clientIP, "server": serverIP} {
		must(b, c.createPod(podOfWay(name, ip)))
		pods[name], err = node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{ip}})
		must(b, err)
	}
	// Five thousand flows a second; the table must not fill.
	must(b, node.SetSysctl("net/netfilter/nf_conntrack_udp_timeout", "1"))
	w := &way{}
	var receiver *net.UDPConn
	must(b, pods["server"].Do(func() (err error) {
		receiver, err = net.ListenUDP("udp4", &net.UDPAddr{IP: serverIP.AsSlice(), Port: port})
		return err
	}))
	go w.receive(receiver)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- pods["client"].Do(func() error { return send(stop) }) }()
	b.Cleanup(func() {
		close(stop)
		must(b, errors.Join(<-stopped, receiver.Close()))
	})
	return w
}

// podOfWay is one end of the way: client or server.
func podOfWay(name string, ip netip.Addr) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name, "friend": "yes"}},
		Spec:       corev1.PodSpec{NodeName: scale.Node, Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip.String(), PodIPs: []corev1.PodIP{{IP: ip.String()}}},
	}
}

func (w *way) receive(from *net.UDPConn) {
	buffer := make([]byte, 64)
	for {
		n, _, err := from.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return // closed
		}
		if n == 8 {
			w.mu.Lock()
			w.arrived = append(w.arrived, time.Duration(binary.BigEndian.Uint64(buffer)))
			w.mu.Unlock()
		}
	}
}

func send(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: serverIP.AsSlice(), Port: port})
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
}

// closes waits until nothing arrives any more, and returns when what came last
// was sent.
func (w *way) closes() (last time.Duration, err error) {
	for deadline := time.Now().Add(late); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		last = 0
		if len(w.arrived) > 0 {
			last = w.arrived[len(w.arrived)-1]
		}
		w.mu.Unlock()
		if time.Since(began)-last > quiet {
			return last, nil
		}
	}
	return 0, errors.New("the way does not close")
}

// opens waits until something arrives that was sent after a time, and returns
// when the first of that was sent.
func (w *way) opens(after time.Duration) (time.Duration, error) {
	for deadline := time.Now().Add(late); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		at := slices.IndexFunc(w.arrived, func(sent time.Duration) bool { return sent > after })
		var first time.Duration
		if at >= 0 {
			first = w.arrived[at]
		}
		w.mu.Unlock()
		if at >= 0 {
			return first, nil
		}
	}
	return 0, errors.New("the way does not open")
}

func (w *way) forget() {
	w.mu.Lock()
	w.arrived = nil
	w.mu.Unlock()
}

// delays are how long after the API server's answer changes were in force.
type delays struct{ closing, opening []time.Duration }

// measure makes a change that shuts the way, and one that opens it.
func (w *way) measure(d *delays, shut, open func() error) error {
	w.forget()
	if err := shut(); err != nil {
		return err
	}
	answered := time.Since(began)
	last, err := w.closes()
	if err != nil {
		return err
	}
	d.closing = append(d.closing, max(0, last-answered))
	w.forget()
	if err := open(); err != nil {
		return err
	}
	answered = time.Since(began)
	first, err := w.opens(answered)
	d.opening = append(d.opening, first-answered)
	return err
}

// report reports the distribution of both, under names that begin with a prefix.
func (d *delays) report(b *testing.B, prefix string) {
	for kind, all := range map[string][]time.Duration{"close": d.closing, "open": d.opening} {
		quantiles.Report(b, prefix+kind, time.Millisecond, all, 10, 25, 50, 75, 90, 95, 99, 100)
	}
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

// label returns a change of the client's label.
func (c *cluster) label(value string) func() error {
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{"friend":%q}}}`, value)
	return func() error {
		_, err := c.CoreV1().Pods(namespace).Patch(context.Background(), "client", types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}
}

// admitFriends creates the policy that makes the label decide, and waits until
// it does.
func (c *cluster) admitFriends(b *testing.B, w *way, shut, open func() error) {
	b.Helper()
	_, err := c.NetworkingV1().NetworkPolicies(namespace).Create(context.Background(), friendsOnly("friends-only"), metav1.CreateOptions{})
	must(b, err)
	must(b, w.measure(&delays{}, shut, open))
}
