package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

var clientIP, serverIP = netip.MustParseAddr("10.250.0.2"), netip.MustParseAddr("10.250.0.3")

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

// way is the packets from one pod of a node to another: one every so often, each of a new
// flow.
type way struct {
	receiver *net.UDPConn

	mu sync.Mutex
	// sent and arrived are when packets were sent, in order: all, and those that have arrived.
	sent, arrived []time.Duration
	// marks is how many marks were put behind what had arrived, and seen how many of them
	// have been read.
	marks, seen int64
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
	return wayBetween(b, pods["client"], pods["server"])
}

// wayBetween has one pod of a node send to another.
func wayBetween(b testing.TB, client, server *lab.Host) *way {
	b.Helper()
	// Five thousand flows a second; the table must not fill.
	must(b, client.Node().SetSysctl("net/netfilter/nf_conntrack_udp_timeout", "1"))
	w := &way{}
	must(b, server.Do(func() (err error) {
		w.receiver, err = net.ListenUDP("udp4", &net.UDPAddr{IP: server.IPs[0].AsSlice(), Port: port})
		return err
	}))
	// A second and more of packets: none may be lost while this process does other things.
	raw, err := w.receiver.SyscallConn()
	must(b, err)
	var failed error
	must(b, raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	}))
	must(b, failed)
	go w.follow(&w.arrived, w.receiver)
	sender, sent, err := startSender(client, netip.AddrPortFrom(server.IPs[0], port))
	must(b, err)
	go w.follow(&w.sent, sent)
	b.Cleanup(func() {
		// It has not ended before, or there would be nothing to measure.
		must(b, errors.Join(sender.Process.Kill(), w.receiver.Close()))
		_ = sender.Wait() // which was killed
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

// follow adds the times that come from the sender, by a pipe or by packets, until that is
// closed.
func (w *way) follow(times *[]time.Duration, from io.Reader) {
	for stamp := make([]byte, 8); ; {
		if _, err := io.ReadFull(from, stamp); err != nil {
			return
		}
		w.mu.Lock()
		if at := int64(binary.NativeEndian.Uint64(stamp)); at < 0 {
			w.seen = -at
		} else {
			*times = append(*times, time.Duration(at))
		}
		w.mu.Unlock()
	}
}

// await waits until something holds of the packets so far.
func (w *way) await(what string, holds func() bool) error {
	for deadline := now() + late; now() < deadline; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		held := holds()
		w.mu.Unlock()
		if held {
			return nil
		}
	}
	return fmt.Errorf("in %s, %s", late, what)
}

// first returns which of some times is the first after another; their number if none is.
func first(times []time.Duration, after time.Duration) int {
	at, _ := slices.BinarySearch(times, after+1)
	return at
}

// opens waits until something arrives that was sent after a time, and returns
// when the first of that was sent.
func (w *way) opens(after time.Duration) (sent time.Duration, err error) {
	err = w.await("nothing has come through", func() bool {
		at := first(w.arrived, after)
		if at < len(w.arrived) {
			sent = w.arrived[at]
		}
		return at < len(w.arrived)
	})
	return sent, err
}

// takenIn waits until all is taken in that has arrived: until a mark is, which the receiver
// sends to itself, behind that.
func (w *way) takenIn() error {
	w.mu.Lock()
	w.marks++
	mark := w.marks
	w.mu.Unlock()
	self := w.receiver.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := w.receiver.WriteToUDPAddrPort(binary.NativeEndian.AppendUint64(nil, uint64(-mark)), self); err != nil {
		return err
	}
	return w.await("what has arrived is not read", func() bool { return w.seen >= mark })
}

// closes waits until for some time nothing has arrived of what was sent after a time, though
// much was.
func (w *way) closes(after time.Duration) error {
	for deadline := now() + late; now() < deadline; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		sent := w.sent
		w.mu.Unlock()
		if len(sent) == 0 {
			continue
		}
		if err := w.takenIn(); err != nil {
			return err
		}
		w.mu.Lock()
		last := after
		if n := len(w.arrived); n > 0 {
			last = max(last, w.arrived[n-1])
		}
		w.mu.Unlock()
		if sent[len(sent)-1]-last > quiet {
			return nil
		}
	}
	return fmt.Errorf("in %s, packets have not stopped coming through", late)
}

// lastBetween returns when the last packet was sent, after one time and before another, that
// has arrived; the former if none has.
func (w *way) lastBetween(after, before time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := first(w.arrived, before-1); at > 0 {
		return max(after, w.arrived[at-1])
	}
	return after
}

// forget forgets all packets so far.
func (w *way) forget() {
	w.mu.Lock()
	w.sent, w.arrived = nil, nil
	w.mu.Unlock()
}

// gaps are the times between packets that were sent one after the other.
func (w *way) gaps() (all []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.sent); i++ {
		all = append(all, w.sent[i]-w.sent[i-1])
	}
	return all
}

// delays are how long after the API server's answer changes were in force.
type delays struct {
	closing, opening []time.Duration
	// shut and opened are when the API server had answered.
	shut, opened []time.Duration
	// gaps are those between the packets: a delay is known to within one.
	gaps []time.Duration
}

// measure makes a change that shuts the way, which must be open, and one that opens it.
func (w *way) measure(d *delays, shut, open func() error) error {
	w.forget()
	if _, err := w.opens(now()); err != nil {
		return err
	}
	if err := shut(); err != nil {
		return err
	}
	answered := now()
	if err := w.closes(answered); err != nil {
		return err
	}
	opening := now()
	if err := open(); err != nil {
		return err
	}
	again := now()
	opened, err := w.opens(again)
	if err != nil {
		return err
	}
	d.shut, d.opened = append(d.shut, answered), append(d.opened, again)
	// Only now is it known that none of before was still on its way.
	d.closing = append(d.closing, w.lastBetween(answered, opening)-answered)
	d.opening = append(d.opening, opened-again)
	d.gaps = append(d.gaps, w.gaps()...)
	return nil
}

// report reports the distributions, under names that begin with a prefix.
func (d *delays) report(b *testing.B, prefix string) {
	for kind, all := range map[string][]time.Duration{"close": d.closing, "open": d.opening} {
		quantiles.Report(b, prefix+kind, time.Millisecond, all, 10, 25, 50, 75, 90, 95, 99, 100)
	}
	quantiles.Report(b, prefix+"gap", time.Millisecond, d.gaps, 50, 99)
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
