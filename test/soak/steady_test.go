package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// The pods of steady traffic, in a namespace that nothing else happens in:
//
//	caller --TCP--> open    let in by a policy's rule
//	caller --UDP--> shut    isolated for ingress: nobody gets in
//	mute   --UDP--> caller  isolated for egress: nothing gets out
const (
	steadyNamespace = "steady"
	steadyPort      = 7000
)

var steadyNames = []string{"caller", "open", "shut", "mute"}

// steadyAddrs are those of the nth of them, beyond all that random pods have.
func steadyAddrs(n int) []netip.Addr { return random.PodAddrs(200+n, random.Node) }

// forbidden are the ways that are always denied.
var forbidden = []struct{ from, to string }{{"caller", "shut"}, {"mute", "caller"}}

const (
	// pace is the time between two of each kind of steady traffic.
	pace = 5 * time.Millisecond
	// patience is how long an answer may take; a lost packet is known by the
	// kernel's count, not by time.
	patience = 10 * time.Second
)

// steady is traffic whose verdict never changes.
type steady struct {
	t     *testing.T
	hosts map[string]*lab.Host

	started            atomic.Bool
	stop               chan struct{}
	closing            sync.Once
	senders, receivers sync.WaitGroup

	// listeners are open's, sinks those of shut and caller, one for each address.
	listeners []net.Listener
	sinks     []net.PacketConn

	// kept are echoes on connections that stay, made are new connections;
	// denied are packets that must not arrive, leaked those that did.
	kept, made, denied, leaked atomic.Int64
}

// writeSteady writes the objects, and makes hosts for the pods.
func writeSteady(c *cluster, l *agreement.Cluster) error {
	if err := c.createNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: steadyNamespace}}); err != nil {
		return err
	}
	for n, name := range steadyNames {
		want := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: steadyNamespace, Name: name, Labels: map[string]string{"steady": name}},
			Spec:       corev1.PodSpec{NodeName: random.Node, Containers: []corev1.Container{{Name: "main"}}},
		}
		pod, err := c.createPod(want)
		if err != nil {
			return err
		}
		status := corev1.PodStatus{Phase: corev1.PodRunning}
		for _, addr := range steadyAddrs(n) {
			status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
		status.PodIP = status.PodIPs[0].IP
		if pod, err = c.updateStatus(pod, status); err != nil {
			return err
		}
		c.steadyPods = append(c.steadyPods, pod)
		if _, err := l.Node.AddPod(name, lab.PodOptions{IPs: steadyAddrs(n)}); err != nil {
			return err
		}
	}
	selecting := func(name string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"steady": name}}
	}
	caller := selecting("caller")
	for _, np := range []*networkingv1.NetworkPolicy{
		{ObjectMeta: metav1.ObjectMeta{Name: "open"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: selecting("open"),
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &caller}}}},
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: "shut"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: selecting("shut"), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: "mute"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: selecting("mute"), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		}},
	} {
		written, err := c.api.NetworkingV1().NetworkPolicies(steadyNamespace).Create(c.ctx, np, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		c.steadyPolicies = append(c.steadyPolicies, written)
	}
	return nil
}

// newSteady opens the receivers, and makes sure that what must not arrive does
// as long as there is no agent.
func newSteady(t *testing.T, l *agreement.Cluster) *steady {
	t.Helper()
	s := &steady{t: t, hosts: map[string]*lab.Host{}, stop: make(chan struct{})}
	for _, name := range steadyNames {
		s.hosts[name] = l.Lab.Host(name)
	}
	for _, ip := range s.hosts["open"].IPs {
		s.listeners = append(s.listeners, s.listen(ip))
	}
	for _, way := range forbidden {
		for _, ip := range s.hosts[way.to].IPs {
			s.sink(s.hosts[way.to], ip)
		}
	}
	t.Cleanup(s.close)
	for _, way := range forbidden {
		for _, ip := range s.hosts[way.to].IPs {
			must(t, s.forbid(way.from, ip))
		}
	}
	for end := time.Now().Add(patience); s.leaked.Load() < s.denied.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("without an agent, %d of %d packets arrive: nothing can be told by them", s.leaked.Load(), s.denied.Load())
		}
	}
	return s
}

// listen opens a TCP listener on open.
func (s *steady) listen(ip netip.Addr) (l net.Listener) {
	s.t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	must(s.t, s.hosts["open"].Do(func() (err error) {
		l, err = config.Listen(context.Background(), "tcp", netip.AddrPortFrom(ip, steadyPort).String())
		return err
	}))
	return l
}

// sink counts what arrives where nothing should.
func (s *steady) sink(host *lab.Host, ip netip.Addr) {
	s.t.Helper()
	must(s.t, host.Do(func() error {
		conn, err := net.ListenPacket("udp", netip.AddrPortFrom(ip, steadyPort).String())
		if err != nil {
			return err
		}
		s.sinks = append(s.sinks, conn)
		s.receivers.Go(func() {
			for {
				_, from, err := conn.ReadFrom(make([]byte, 1))
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					s.arrived(from, conn.LocalAddr())
				}
			}
		})
		return nil
	}))
}

// arrived notes a packet at a sink.
func (s *steady) arrived(from, to net.Addr) {
	if n := s.leaked.Add(1); s.started.Load() && n <= reports {
		s.t.Errorf("%s: a packet from %s to %s has passed", clock(), from, to)
	}
}

// clock is the time as the agent's log has it.
func clock() string { return time.Now().UTC().Format("15:04:05.000") }

// start begins the traffic, until finish.
func (s *steady) start() {
	s.t.Helper()
	s.denied.Store(0)
	s.leaked.Store(0)
	s.started.Store(true)
	var kept []talk
	for _, l := range s.listeners {
		talk, err := s.connect(l)
		must(s.t, err)
		kept = append(kept, talk)
	}
	for _, talk := range kept {
		s.senders.Go(func() {
			defer talk.close()
			s.steadily("kept connection", func() error { return s.keep(talk) })
		})
	}
	s.senders.Go(func() {
		n := 0
		s.steadily("new connections", func() error { n++; return s.call(s.listeners[n%len(s.listeners)]) })
	})
	for _, way := range forbidden {
		s.senders.Go(func() {
			n, to := 0, s.hosts[way.to].IPs
			s.steadily("packets from "+way.from+" to "+way.to, func() error { n++; return s.forbid(way.from, to[n%len(to)]) })
		})
	}
}

// steadily does something at its pace until the end, or the first error.
func (s *steady) steadily(what string, do func() error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			if err := do(); err != nil {
				s.t.Errorf("%s: %s: %v", clock(), what, err)
				return
			}
		}
	}
}

// finish ends the traffic, waits for what is under way, and judges it.
func (s *steady) finish() {
	s.t.Helper()
	s.close()
	s.t.Logf("steady traffic: %d echoes on %d kept connections and %d new connections; %d packets that must not pass, %d did",
		s.kept.Load(), len(s.listeners), s.made.Load(), s.denied.Load(), s.leaked.Load())
	if s.leaked.Load() > 0 {
		s.t.Errorf("%d packets of always denied connections have passed", s.leaked.Load())
	}
	if s.kept.Load() == 0 || s.made.Load() == 0 || s.denied.Load() == 0 {
		s.t.Error("one kind of steady traffic has not been sent")
	}
}

// close ends the senders, then the receivers. It may be called again.
func (s *steady) close() {
	s.closing.Do(func() {
		close(s.stop)
		s.senders.Wait()
		for _, l := range s.listeners {
			_ = l.Close()
		}
		for _, conn := range s.sinks {
			_ = conn.Close()
		}
		s.receivers.Wait()
	})
}

// forbid sends one packet of a new connection that must not arrive.
func (s *steady) forbid(from string, to netip.Addr) error {
	conn, err := s.hosts[from].Dial(context.Background(), policy.UDP, netip.AddrPortFrom(to, steadyPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("x"))
	s.denied.Add(1)
	return err
}

// call makes a new connection, uses it once and closes it.
func (s *steady) call(l net.Listener) error {
	talk, err := s.connect(l)
	if err != nil {
		return err
	}
	defer talk.close()
	s.made.Add(1)
	return talk.echo()
}

// keep uses a connection once more.
func (s *steady) keep(t talk) error {
	s.kept.Add(1)
	return t.echo()
}

// talk is a TCP connection from caller to open: both its ends.
type talk struct{ caller, open net.Conn }

// connect makes a connection to a listener that nobody else uses just now.
func (s *steady) connect(l net.Listener) (t talk, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	if t.caller, err = s.hosts["caller"].Dial(ctx, policy.TCP, to); err != nil {
		return t, err
	}
	if t.open, err = l.Accept(); err != nil {
		return t, errors.Join(err, t.caller.Close())
	}
	return t, nil
}

// echo sends an octet there and back. A packet that was lost on the way is an
// error, although TCP has sent it again.
func (t talk) echo() error {
	for _, way := range [][2]net.Conn{{t.caller, t.open}, {t.open, t.caller}} {
		from, to := way[0], way[1]
		if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := from.Write([]byte("x")); err != nil {
			return err
		}
		if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
			return err
		}
	}
	for _, end := range []net.Conn{t.caller, t.open} {
		n, err := resent(end)
		if err == nil && n > 0 {
			time.Sleep(report)
			n, err = resent(end)
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%s to %s: %d packets were lost", end.LocalAddr(), end.RemoteAddr(), n)
		}
	}
	return nil
}

// report is how long the other end may take to say that a packet came twice.
const report = 100 * time.Millisecond

// resent is how many packets of a connection's end were sent again but came
// once. Those that were only late, as on a busy machine, came twice, and the
// other end has said so (RFC 2883).
func resent(end net.Conn) (n int, err error) {
	raw, err := end.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	if controlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); controlErr != nil {
		return 0, controlErr
	}
	if err != nil {
		return 0, fmt.Errorf("TCP_INFO: %w", err)
	}
	return int(info.Total_retrans) - int(info.Dsack_dups), nil
}

// close resets the connection: one that was closed in order would stay with
// the kernel for a minute, and there are many.
func (t talk) close() {
	_ = t.caller.(*net.TCPConn).SetLinger(0)
	_ = t.caller.Close()
	_ = t.open.Close()
}
