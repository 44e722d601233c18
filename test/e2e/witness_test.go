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
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/cluster"
)

// witnessPort is where witnesses listen. Nothing else of a test does.
const witnessPort = 9998

const (
	// lookEvery is how often a node is looked at for sandboxes that it has not had.
	lookEvery = 20 * time.Millisecond
	// sendEvery is how often a witness in a sandbox sends to the other witnesses that
	// have addresses of their own, and sweepEvery how often all send to each address
	// that a pod of the node can have.
	sendEvery, sweepEvery = 20 * time.Millisecond, 300 * time.Millisecond
)

// witness stands in one network namespace. It sends its name to all others, and takes
// down whose it hears: what passes between two containers, it passes between their
// witnesses, whatever the API says of their addresses.
type witness struct {
	name string
	conn *net.UDPConn
	// asker asks each address which program answers there. Nil in sandboxes.
	asker *net.UDPConn
	done  chan struct{}

	mu sync.Mutex
	// pod is whose sandbox it is, by the cgroup of the processes in it; empty until
	// one is seen, and for witnesses elsewhere.
	pod string
	// ips are the addresses that the namespace has, seen from inside.
	ips []netip.Addr
	// heard are the other witnesses, and answered the programs by address.
	heard    map[string]*heard
	answered map[answer]*heard
	gone     bool
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
	// range_ are all addresses that a pod of the node can get.
	range_ []netip.Addr
	// places are the addresses of the witnesses outside.
	places []netip.AddrPort
	// pods are those that were told of, by UID, and denied those that nothing may reach
	// or come from.
	pods   map[string]*corev1.Pod
	denied map[string]bool

	wait sync.WaitGroup // for what the witnesses do

	mu        sync.Mutex
	outside   []*witness
	sandboxes map[string]*witness // by the name of the namespace, which is never used again
}

// watchNode puts witnesses in all sandboxes of a node, and in each of some pods and
// hosts elsewhere. Until the test ends nothing may pass to or from those denied.
func watchNode(t *testing.T, node string, denied, open, elsewhere []*corev1.Pod) *watch {
	t.Helper()
	w := &watch{
		node: node, range_: rangeOf(t, node), pods: map[string]*corev1.Pod{}, denied: map[string]bool{},
		sandboxes: map[string]*witness{},
	}
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
		close(stop)
		<-stopped
		for _, one := range w.all() {
			one.leave()
		}
		w.wait.Wait()
	})
	return w
}

// rangeOf are the addresses of a node's pod ranges: of an IPv6 range the first, where
// leases begin.
func rangeOf(t *testing.T, name string) (all []netip.Addr) {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range node.Spec.PodCIDRs {
		cidr := netip.MustParsePrefix(text)
		for a, n := cidr.Addr(), 0; n < 256 && cidr.Contains(a); a, n = a.Next(), n+1 {
			all = append(all, a)
		}
	}
	return all
}

// place puts a witness outside of the node.
func (w *watch) place(t *testing.T, name, netns string, ips []string, ask bool) {
	t.Helper()
	one, err := newWitness(name, netns, ask)
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range ips {
		w.places = append(w.places, netip.AddrPortFrom(netip.MustParseAddr(ip), witnessPort))
	}
	w.outside = append(w.outside, one)
	w.wait.Go(one.listen)
	if ask {
		w.wait.Go(one.hearAnswers)
		w.wait.Go(func() { w.sweep(one) })
	}
}

func newWitness(name, netns string, ask bool) (*witness, error) {
	one := &witness{name: name, done: make(chan struct{}), heard: map[string]*heard{}, answered: map[answer]*heard{}}
	err := cluster.Inside(netns, func() (err error) {
		if one.conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: witnessPort}); err != nil || !ask {
			return err
		}
		one.asker, err = net.ListenUDP("udp", nil)
		return err
	})
	return one, err
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
	if one.asker != nil {
		one.asker.Close()
	}
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
		from := string(buffer[:n])
		one.heard[from] = one.heard[from].again()
		one.mu.Unlock()
	}
}

func (one *witness) hearAnswers() {
	buffer := make([]byte, 128)
	for {
		n, from, err := one.asker.ReadFromUDPAddrPort(buffer)
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

// sweep has a witness send to each address that a pod of the node can have, but for its
// own, again and again.
func (w *watch) sweep(one *witness) {
	for tick := time.NewTicker(sweepEvery); ; {
		for _, ip := range w.range_ {
			if slices.Contains(one.addresses(), ip) {
				continue
			}
			// An error is that of an earlier packet: nobody is there.
			_, _ = one.conn.WriteToUDPAddrPort([]byte(one.name), netip.AddrPortFrom(ip, witnessPort))
			if one.asker != nil {
				_, _ = one.asker.WriteToUDPAddrPort([]byte("hostname"), netip.AddrPortFrom(ip, 8081))
			}
		}
		select {
		case <-one.done:
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

// call has a witness send to those outside, again and again.
func (w *watch) call(one *witness) {
	for tick := time.NewTicker(sendEvery); ; {
		for _, place := range w.places {
			_, _ = one.conn.WriteToUDPAddrPort([]byte(one.name), place)
		}
		select {
		case <-one.done:
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

func (one *witness) addresses() []netip.Addr {
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.ips
}

// look finds the node's sandboxes as they come and go, until it is to stop.
func (w *watch) look(stop <-chan struct{}) {
	for tick := time.NewTicker(lookEvery); ; {
		select {
		case <-stop:
			tick.Stop()
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
				w.enter(name, path)
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
func (w *watch) enter(name, path string) {
	one, err := newWitness(name, path, false)
	if err != nil {
		return
	}
	w.sandboxes[name] = one
	w.wait.Go(one.listen)
	w.wait.Go(func() { w.call(one) })
	w.wait.Go(func() {
		for len(one.addresses()) == 0 { // it must not send to itself
			select {
			case <-one.done:
				return
			case <-time.After(lookEvery):
			}
		}
		w.sweep(one)
	})
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
func addressesInside(netns string) (ips []netip.Addr) {
	_ = cluster.Inside(netns, func() error {
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
	h := one.heard[from]
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
	eventually(t, 4*time.Minute, "all open pods of "+w.node+" to reach each other", func() error {
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
		if place.asker == nil {
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

// expectNoLeaks fails the test for all that has ever passed to or from a denied pod, or
// a sandbox of which nobody knows whose it was.
func (w *watch) expectNoLeaks(t *testing.T) {
	t.Helper()
	all := w.all()
	whose := map[string]string{} // the pods of the witnesses in sandboxes
	for _, one := range w.sandboxesEver() {
		whose[one.name] = one.whose()
	}
	closed := func(name string) bool {
		pod, sandbox := whose[name]
		return sandbox && (pod == "" || w.denied[pod])
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
		for from, h := range one.heard {
			heard += h.times
			if from != one.name && (closed(one.name) || closed(from)) {
				t.Errorf("denied: %s has heard %s %s", said(one.name), said(from), h)
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
	for uid := range w.now() {
		if w.denied[uid] {
			if n := received(t, w.pods[uid]); n != 0 {
				t.Errorf("%s has received %d denied packets", w.pods[uid].Name, n)
			}
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
	for uid := range w.denied {
		all = append(all, w.pods[uid])
	}
	return all
}
