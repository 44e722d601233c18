//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
)

// witnessPort is where witnesses listen. Nothing else of a test does.
const witnessPort = 9998

const (
	// lookEvery is how often a node is looked at for sandboxes that it has not had.
	lookEvery = 20 * time.Millisecond
	// callEvery is how often a witness in a sandbox sends to those outside. Every
	// freshCalls times it begins a new flow as well: connection tracking keeps each for
	// 30 seconds. Every callsInSweep times it sends to each address that a pod of the
	// node can have.
	callEvery, freshCalls, callsInSweep = 20 * time.Millisecond, 5, 15
)

// witness stands in one network namespace. It sends its name to all others, and takes
// down whose it hears: what passes between two containers, it passes between their
// witnesses, whatever the API says of their addresses.
type witness struct {
	name, podNetNS string
	conn           *net.UDPConn
	// asks says that it also asks each address which program answers there.
	asks bool
	// early says that it is in a sandbox that was there before the watch: one that
	// nobody is in any more may have been any earlier pod's.
	early bool
	done  chan struct{}

	mu sync.Mutex
	// pod is whose sandbox it is, by the cgroup of the processes in it; empty until
	// one is seen, and for witnesses elsewhere.
	pod string
	// ips are the addresses that the namespace has, seen from inside.
	ips []netip.Addr
	// heard are the other witnesses, and answered the programs by address.
	heard    map[message]*heard
	answered map[answer]*heard
	gone     bool
}

// message is what witnesses send each other.
type message struct {
	from string
	// flow says whether it was sent from the witnesses' port, so that it belongs to
	// the flow of whoever had the address before, or begins one.
	flow string
}

const (
	keptFlow = "on a flow that it kept"
	newFlow  = "on a new flow"
)

func (m message) String() string { return m.from + "\n" + m.flow }

func parseMessage(text string) message {
	from, flow, _ := strings.Cut(text, "\n")
	return message{from, flow}
}

// answer is what program, by its host name, has answered at an address.
type answer struct {
	ip   netip.Addr
	name string
}

// heard is how often somebody was, and when at first and at last.
type heard struct {
	times       int
	first, last time.Time
}

func (h *heard) again() *heard {
	now := time.Now()
	if h == nil {
		h = &heard{first: now}
	}
	h.times++
	h.last = now
	return h
}

func (h *heard) String() string {
	const clock = "15:04:05.000"
	return fmt.Sprintf("%d times, from %s to %s", h.times, h.first.Format(clock), h.last.Format(clock))
}

// watch is a node under watch: a witness in each sandbox that it makes, from the moment
// that the network namespace is there, and one in each of some places outside.
type watch struct {
	node string
	// places are the addresses of the witnesses outside.
	places []netip.AddrPort
	// pods are those that were told of, by UID, and denied those that nothing may reach
	// or come from.
	pods   map[string]*corev1.Pod
	denied map[string]bool

	wait sync.WaitGroup // for what the witnesses do

	mu sync.Mutex
	// inRange are all addresses that a pod of the node can get.
	inRange   []netip.Addr
	outside   []*witness
	sandboxes map[string]*witness // by the name of the namespace, which is never used again
}

// watchNode puts witnesses in all sandboxes of a node, and in each of some pods and
// hosts elsewhere. Until the test ends nothing may pass to or from those denied.
func watchNode(t *testing.T, node string, denied, open, elsewhere []*corev1.Pod) *watch {
	t.Helper()
	w := &watch{
		node: node, pods: map[string]*corev1.Pod{}, denied: map[string]bool{},
		sandboxes: map[string]*witness{},
	}
	w.sweepRange(t)
	for _, pod := range slices.Concat(denied, open) {
		w.pods[string(pod.UID)] = pod
	}
	for _, pod := range denied {
		w.denied[string(pod.UID)] = true
	}
	for _, pod := range elsewhere {
		w.place(t, pod.Name, netnsOf(t, pod), podIPs(pod), true)
	}
	// Hosts only listen: a node reaches its own pods whatever the policies say.
	w.place(t, "cp", theCluster.HostNetNS("cp"), outsideIPs(t), false)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		w.look(stop)
	}()
	t.Cleanup(func() {
		w.expectNoLeaks(t) // whatever else has failed
		close(stop)
		<-stopped
		for _, one := range w.all() {
			one.leave()
		}
		w.wait.Wait()
	})
	return w
}

// sweepRange has the witnesses send to the addresses of the node's pod ranges, as its
// Node object shows them now: of an IPv6 range the first, where leases begin.
func (w *watch) sweepRange(t *testing.T) {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(context.Background(), w.node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []netip.Addr
	for _, text := range node.Spec.PodCIDRs {
		cidr := netip.MustParsePrefix(text)
		for a, n := cidr.Addr(), 0; n < 256 && cidr.Contains(a); a, n = a.Next(), n+1 {
			all = append(all, a)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inRange = all
}

func (w *watch) addressesInRange() []netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inRange
}

// place puts a witness outside of the node.
func (w *watch) place(t *testing.T, name, podNetNS string, ips []string, ask bool) {
	t.Helper()
	one, err := newWitness(name, podNetNS, ask)
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range ips {
		w.places = append(w.places, netip.AddrPortFrom(netip.MustParseAddr(ip), witnessPort))
	}
	w.outside = append(w.outside, one)
	w.wait.Go(one.listen)
	if ask {
		w.wait.Go(func() { w.send(one) })
	}
}

func newWitness(name, podNetNS string, asks bool) (*witness, error) {
	one := &witness{
		name: name, podNetNS: podNetNS, asks: asks, done: make(chan struct{}),
		heard: map[message]*heard{}, answered: map[answer]*heard{},
	}
	return one, netns.InsidePath(podNetNS, func() (err error) {
		one.conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: witnessPort})
		return err
	})
}

// leave ends a witness. What it has heard stays.
func (one *witness) leave() {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.gone {
		return
	}
	one.gone = true
	close(one.done)
	one.conn.Close()
}

func (one *witness) listen() {
	buffer := make([]byte, 128)
	for {
		n, _, err := one.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // that of a packet that it has sent
		}
		one.mu.Lock()
		m := parseMessage(string(buffer[:n]))
		one.heard[m] = one.heard[m].again()
		one.mu.Unlock()
	}
}

// hearAnswers takes down what comes in to a socket until that is closed.
func (one *witness) hearAnswers(conn *net.UDPConn) {
	buffer := make([]byte, 128)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		one.mu.Lock()
		key := answer{from.Addr().Unmap(), string(buffer[:n])}
		one.answered[key] = one.answered[key].again()
		one.mu.Unlock()
	}
}

// send has a witness send to those outside, and to each address that a pod of the node
// can have but for its own, until it leaves.
func (w *watch) send(one *witness) {
	// Inside, as each new flow is another socket's.
	_ = netns.InsidePath(one.podNetNS, func() error {
		for tick, calls := time.NewTicker(callEvery), 0; ; calls++ {
			if calls%callsInSweep == 0 {
				w.sweep(one)
			}
			w.call(one, calls%freshCalls == 0)
			select {
			case <-one.done:
				tick.Stop()
				return nil
			case <-tick.C:
			}
		}
	})
}

// call has a witness in a sandbox send to those outside, on a new flow as well or not.
func (w *watch) call(one *witness, fresh bool) {
	if len(one.addresses()) == 0 {
		return
	}
	one.say(one.conn, keptFlow, w.places)
	if !fresh {
		return
	}
	if conn := listenAnew(); conn != nil {
		one.say(conn, newFlow, w.places)
		conn.Close()
	}
}

// sweep has a witness send to each address that a pod of the node can have, but for its
// own.
func (w *watch) sweep(one *witness) {
	var others, programs []netip.AddrPort
	for _, ip := range w.addressesInRange() {
		if !slices.Contains(one.addresses(), ip) {
			others = append(others, netip.AddrPortFrom(ip, witnessPort))
			programs = append(programs, netip.AddrPortFrom(ip, 8081))
		}
	}
	if !one.asks && len(one.addresses()) == 0 {
		return // it would send to itself
	}
	one.say(one.conn, keptFlow, others)
	conn := listenAnew()
	if conn == nil {
		return
	}
	one.say(conn, newFlow, others)
	if !one.asks {
		conn.Close()
		return
	}
	for _, program := range programs {
		_, _ = conn.WriteToUDPAddrPort([]byte("hostname"), program)
	}
	w.wait.Go(func() { one.hearAnswers(conn) })
	time.AfterFunc(time.Second, func() { conn.Close() })
}

// say sends a witness's name. An error is that of an earlier packet, that nobody is
// there, or the name cannot be sent yet.
func (one *witness) say(conn *net.UDPConn, flow string, to []netip.AddrPort) {
	text := []byte(message{one.name, flow}.String())
	for _, address := range to {
		_, _ = conn.WriteToUDPAddrPort(text, address)
	}
}

// lastPort is the port of the last flow that was begun, above firstPort.
var lastPort atomic.Uint32

// listenAnew is a socket with a port that none had for a long time: a flow of it cannot
// be one that somebody else has begun. It is nil while the thread's namespace has none
// to give.
func listenAnew() *net.UDPConn {
	const firstPort, ports = 10_000, 50_000
	conn, _ := net.ListenUDP("udp", &net.UDPAddr{Port: firstPort + int(lastPort.Add(1)%ports)})
	return conn
}

func (one *witness) addresses() []netip.Addr {
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.ips
}

// look finds the node's sandboxes as they come and go, until it is to stop.
func (w *watch) look(stop <-chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for early := true; ; early = false {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		found := w.sandboxPaths()
		w.mu.Lock()
		var nobodys []*witness
		for name, one := range w.sandboxes {
			if found[name] == "" {
				one.leave()
			} else if one.whose() == "" || len(one.addresses()) == 0 {
				nobodys = append(nobodys, one)
			}
		}
		for name, path := range found {
			if w.sandboxes[name] == nil {
				w.enter(name, path, early)
			}
		}
		w.mu.Unlock()
		for _, one := range nobodys {
			one.know(found[one.name])
		}
	}
}

// sandboxPaths are the network namespaces that the node's runtime has made: none while
// the node is off.
func (w *watch) sandboxPaths() map[string]string {
	paths := map[string]string{}
	host, err := theCluster.HostProcess(w.node)
	if err != nil {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(host, "root/run/netns/cni-*"))
	for _, path := range found {
		paths[filepath.Base(path)] = path
	}
	return paths
}

// enter puts a witness into a sandbox. One that is not quite there yet is entered when
// it is looked at next.
func (w *watch) enter(name, path string, early bool) {
	one, err := newWitness(name, path, false)
	if err != nil {
		return
	}
	one.early = early
	w.sandboxes[name] = one
	w.wait.Go(one.listen)
	w.wait.Go(func() { w.send(one) })
}

func (one *witness) whose() string {
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.pod
}

// know finds out the pod that a sandbox is of, and its addresses.
func (one *witness) know(path string) {
	ips := addressesInside(path)
	var stat unix.Stat_t
	pod := ""
	if unix.Stat(path, &stat) == nil {
		pod = podOfNamespace(stat.Ino)
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if len(ips) > 0 {
		one.ips = ips
	}
	if one.pod == "" {
		one.pod = pod
	}
}

// addressesInside are those of a network namespace's eth0, if it has one yet.
func addressesInside(podNetNS string) (ips []netip.Addr) {
	_ = netns.InsidePath(podNetNS, func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := eth0.Addrs()
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && !prefix.Addr().IsLinkLocalUnicast() {
				ips = append(ips, prefix.Addr())
			}
		}
		return err
	})
	return ips
}

var podCgroup = regexp.MustCompile(`/pod([0-9a-f-]{36})/`)

// podOfNamespace is the UID of the pod that the processes in a network namespace are of;
// empty if there are none.
func podOfNamespace(inode uint64) string {
	for _, process := range processesIn(inode) {
		cgroup, _ := os.ReadFile(filepath.Join(process, "cgroup")) // it may have ended
		if match := podCgroup.FindSubmatch(cgroup); match != nil {
			return string(match[1])
		}
	}
	return ""
}

// processesIn are the directories, in /proc of this machine, of the processes in a
// network namespace.
func processesIn(inode uint64) (all []string) {
	want := fmt.Sprintf("net:[%d]", inode)
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		if at, _ := os.Readlink(link); at == want {
			all = append(all, strings.TrimSuffix(link, "/ns/net"))
		}
	}
	return all
}

func (w *watch) all() []*witness {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.outside)
	for _, one := range w.sandboxes {
		all = append(all, one)
	}
	return all
}

// now are the sandboxes that there are now, by the UIDs of the pods.
func (w *watch) now() map[string]*witness {
	now := map[string]*witness{}
	for _, one := range w.all() {
		one.mu.Lock()
		if one.pod != "" && !one.gone {
			now[one.pod] = one
		}
		one.mu.Unlock()
	}
	return now
}

// heardSince reports whether a witness has heard another one since then.
func (one *witness) heardSince(from string, then time.Time) bool {
	one.mu.Lock()
	defer one.mu.Unlock()
	h := one.heard[message{from, newFlow}]
	return h != nil && h.last.After(then)
}

// answersSince reports whether the program that a name is of has answered a witness at
// this address since then.
func (one *witness) answersSince(name string, ip netip.Addr, then time.Time) bool {
	one.mu.Lock()
	defer one.mu.Unlock()
	h := one.answered[answer{ip, name}]
	return h != nil && h.last.After(then)
}

// expectOpen waits until all of the open pods have a sandbox, reach each other and those
// outside, and are reached, and answer by their names at the addresses that they have.
// It returns the sandboxes of all the pods.
func (w *watch) expectOpen(t *testing.T) map[string]*witness {
	t.Helper()
	then := time.Now()
	check.Eventually(t, 2*time.Minute, "all open pods of "+w.node+" to reach each other", func() error {
		now := w.now()
		var errs []error
		for uid, pod := range w.pods {
			if now[uid] == nil {
				errs = append(errs, fmt.Errorf("%s has no sandbox", pod.Name))
			} else if !w.denied[uid] {
				errs = append(errs, w.open(pod, now, then))
			}
		}
		return errors.Join(errs...)
	})
	return w.now()
}

// open fails unless an open pod has been heard, and has heard, everywhere since then.
func (w *watch) open(pod *corev1.Pod, now map[string]*witness, then time.Time) error {
	var errs []error
	self := now[string(pod.UID)]
	for uid, other := range now {
		if w.pods[uid] != nil && !w.denied[uid] && other != self && !other.heardSince(self.name, then) {
			errs = append(errs, fmt.Errorf("%s has not heard %s", w.pods[uid].Name, pod.Name))
		}
	}
	for _, place := range w.outside {
		if !place.heardSince(self.name, then) {
			errs = append(errs, fmt.Errorf("%s has not heard %s", place.name, pod.Name))
		}
		if !place.asks {
			continue
		}
		if !self.heardSince(place.name, then) {
			errs = append(errs, fmt.Errorf("%s has not heard %s", pod.Name, place.name))
		}
		for _, ip := range self.addresses() {
			if !place.answersSince(pod.Name, ip, then) {
				errs = append(errs, fmt.Errorf("%s has not answered %s at %s", pod.Name, place.name, ip))
			}
		}
	}
	return errors.Join(errs...)
}

// expectNoLeaks fails the test for all that has passed to or from a denied pod, or a new
// sandbox of which nobody knows whose it was, since it was called last.
func (w *watch) expectNoLeaks(t *testing.T) {
	t.Helper()
	all := w.all()
	whose := map[string]string{} // the pods of the witnesses in sandboxes
	early := map[string]bool{}
	for _, one := range w.sandboxesEver() {
		whose[one.name], early[one.name] = one.whose(), one.early
	}
	closed := func(name string) bool {
		pod, sandbox := whose[name]
		return sandbox && (w.denied[pod] || pod == "" && !early[name])
	}
	said := func(name string) string {
		pod, sandbox := whose[name]
		switch {
		case !sandbox:
			return name
		case w.pods[pod] == nil:
			return name + " of a pod with UID " + pod
		}
		return w.pods[pod].Name
	}
	heard, answered := 0, 0
	for _, one := range all {
		one.mu.Lock()
		for m, h := range one.heard {
			heard += h.times
			if closed(one.name) || closed(m.from) {
				t.Errorf("denied: %s has heard %s %s %s", said(one.name), said(m.from), m.flow, h)
				delete(one.heard, m)
			}
		}
		for a, h := range one.answered {
			answered += h.times
			if slices.ContainsFunc(w.deniedPods(), func(p *corev1.Pod) bool { return p.Name == a.name }) {
				t.Errorf("denied: %s has answered %s at %s %s", a.name, one.name, a.ip, h)
			}
		}
		one.mu.Unlock()
	}
	// The kernel's own counts of what has come in to those that run miss nothing.
	now := w.now()
	for _, pod := range w.deniedPods() {
		if now[string(pod.UID)] == nil {
			continue
		}
		if n := received(t, pod); n != 0 {
			t.Errorf("%s has received %d denied packets", pod.Name, n)
		}
	}
	t.Logf("%s: %d sandboxes; %d packets heard that may be, and %d answers", w.node, len(whose), heard, answered)
}

func (w *watch) sandboxesEver() (all []*witness) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.sandboxes {
		all = append(all, one)
	}
	return all
}

func (w *watch) deniedPods() (all []*corev1.Pod) {
	for uid, pod := range w.pods {
		if w.denied[uid] {
			all = append(all, pod)
		}
	}
	return all
}
