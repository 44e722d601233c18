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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

const (
	// lostWithin is how long something may still pass to or from a container whose pod
	// the API has forgotten.
	lostWithin = 2 * time.Second
	// lostFor is how long it is looked at after that. With the rest it must take less
	// than the time after which a node without kubelet is not Ready, or after which the
	// pods of a Node that is not there are deleted: 40 seconds.
	lostFor = 5 * time.Second
)

// pulse is a connection that is used all the time.
type pulse struct {
	name string

	mu   sync.Mutex
	last time.Time // when it was answered
}

// keepPulse opens a connection to an address, where a pod of newPod's answers, and uses
// it until it breaks, or the test ends.
func keepPulse(t *testing.T, name, podNetNS, ip string) *pulse {
	t.Helper()
	var conn net.Conn
	err := netns.InsidePath(podNetNS, func() (err error) {
		conn, err = net.DialTimeout("tcp", hostPort(ip, 8080), 10*time.Second)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p := &pulse{name: name}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for answers := bufio.NewReader(conn); ; time.Sleep(20 * time.Millisecond) {
			// Without a deadline: what was cut and passes again is sent again.
			if _, err := io.WriteString(conn, "GET /hostname HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
				return
			}
			response, err := http.ReadResponse(answers, nil)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				return
			}
			p.mu.Lock()
			p.last = time.Now()
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	check.Eventually(t, seenWithin, name+" to be answered", func() error {
		if p.answered().IsZero() {
			return errors.New("nothing has come")
		}
		return nil
	})
	return p
}

func (p *pulse) answered() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// freezeKubelet has a node's kubelet stand still, so that nobody ends containers, until
// it is thawed, or the test ends.
func freezeKubelet(t *testing.T, node string) (thaw func()) {
	t.Helper()
	if err := theCluster.Signal(node, "kubelet", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	thaw = sync.OnceFunc(func() {
		if err := theCluster.Signal(node, "kubelet", syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(thaw)
	return thaw
}

// deleteByForce deletes pods from the API at once, whatever runs of them.
func deleteByForce(t *testing.T, pods ...*corev1.Pod) {
	t.Helper()
	now := int64(0)
	for _, pod := range pods {
		err := client.CoreV1().Pods(pod.Namespace).Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lostPods are pods on node2, under watch: some that the API is to forget, others that
// are to go on, and one on node1. All are open.
type lostPods struct {
	*watch
	victims, others []*corev1.Pod
	far             *corev1.Pod
	// pulses are the victims' connections, in and out.
	pulses []*pulse
	// talks are the others'.
	talks []*steady
}

func newLostPods(t *testing.T) *lostPods {
	t.Helper()
	closed, open := newNamespace(t), newNamespace(t)
	apply(t, denyAll(closed))
	pods := start(t,
		newPod(closed, "denied", on("node2")),
		newPod(open, "victim-0", on("node2")), newPod(open, "victim-1", on("node2")),
		newPod(open, "other-0", on("node2")), newPod(open, "other-1", on("node2")),
		newPod(open, "far", on("node1")),
	)
	l := &lostPods{victims: pods[1:3], others: pods[3:5], far: pods[5]}
	l.watch = watchNode(t, "node2", pods[:1], pods[1:5], pods[5:])
	l.expectOpen(t)
	for _, victim := range l.victims {
		for _, other := range []*corev1.Pod{l.others[0], l.far} {
			for _, ip := range podIPs(victim) {
				l.pulses = append(l.pulses, keepPulse(t, other.Name+" to "+victim.Name, netnsOf(t, other), ip))
			}
			for _, ip := range podIPs(other) {
				l.pulses = append(l.pulses, keepPulse(t, victim.Name+" to "+other.Name, netnsOf(t, victim), ip))
			}
		}
		for _, ip := range podIPs(victim) {
			l.pulses = append(l.pulses, keepPulse(t, "its node to "+victim.Name, theCluster.HostNetNS("node2"), ip))
		}
	}
	for _, ip := range podIPs(l.others[1]) {
		l.talks = append(l.talks, keepTalking(t, l.others[0], ip))
	}
	return l
}

// lostWays are the ways to and from the victims.
func (l *lostPods) lostWays(t *testing.T) []way {
	t.Helper()
	around := append([]*corev1.Pod{l.far}, l.others...)
	all := slices.Concat(waysBetween(t, around, l.victims), waysBetween(t, l.victims, around))
	for _, victim := range l.victims {
		// By TCP alone: who sends UDP on the node itself is told that it may not.
		all = append(all, ways("node2", theCluster.HostNetNS("node2"), podIPs(victim), 8080, 0)...)
	}
	return all
}

// expectLost fails the test if anything has passed to or from the victims from some time
// on, or passes now: on flows that there were, and on new ones. Their containers run.
func (l *lostPods) expectLost(t *testing.T, from time.Time) {
	t.Helper()
	if wait := time.Until(from.Add(lostFor)); wait > 0 {
		time.Sleep(wait)
	}
	for _, p := range l.pulses {
		if last := p.answered(); last.After(from) {
			t.Errorf("%s: answered %s later than it may be", p.name, last.Sub(from))
		}
	}
	now := l.now()
	lost := map[string]*corev1.Pod{}
	for _, victim := range l.victims {
		one := now[string(victim.UID)]
		if one == nil {
			t.Fatalf("the container of %s is gone: nothing is shown", victim.Name)
		}
		lost[one.name] = victim
	}
	for _, one := range l.all() {
		one.mu.Lock()
		for m, h := range one.heard {
			if (lost[one.name] != nil || lost[m.from] != nil) && h.last.After(from) {
				t.Errorf("%s has heard %s %s: %s; that is %s later than it may be", one.name, m.from, m.flow, h, h.last.Sub(from))
			}
		}
		one.mu.Unlock()
	}
	var closed sync.WaitGroup
	for _, w := range l.lostWays(t) {
		closed.Go(func() {
			// Other nodes lose their route to a Node that is gone.
			if err := w.closed(); err != nil && !errors.Is(err, syscall.ENETUNREACH) {
				t.Error(err)
			}
		})
	}
	closed.Wait()
	for _, victim := range l.victims {
		for _, w := range ways(victim.Name+" itself", netnsOf(t, victim), []string{"127.0.0.1"}, 8080, 0) {
			if err := w.opens(); err != nil {
				t.Errorf("its program must run: %v", err)
			}
		}
	}
}

// forget has the watch expect nothing of pods any more.
func (w *watch) forget(pods ...*corev1.Pod) {
	for _, pod := range pods {
		delete(w.pods, string(pod.UID))
	}
}

// expectEnded waits until no container of the victims runs, and starts pods of their
// names, which all reach.
func (l *lostPods) expectEnded(t *testing.T) {
	t.Helper()
	check.Eventually(t, time.Minute, "the containers of pods that are gone to end", func() error {
		for _, victim := range l.victims {
			if process, err := cluster.PodProcess(string(victim.UID)); err == nil {
				return fmt.Errorf("%s is process %s", victim.Name, process)
			}
		}
		return nil
	})
	var again []*corev1.Pod
	for _, victim := range l.victims {
		again = append(again, newPod(victim.Namespace, victim.Name, on("node2")))
	}
	for _, pod := range start(t, again...) {
		l.pods[string(pod.UID)] = pod
	}
	l.expectOpen(t)
}

// TestPodsDeletedByForce: pods are deleted from the API while kubelet stands still, so
// that their containers run on. Nobody knows what may pass to and from those, so nothing
// does; also on connections that there were.
func TestPodsDeletedByForce(t *testing.T) {
	l := newLostPods(t)
	thaw := freezeKubelet(t, "node2")
	deleteByForce(t, l.victims...)
	l.expectLost(t, time.Now().Add(lostWithin))
	l.forget(l.victims...)
	l.expectOpen(t)
	thaw()
	l.expectEnded(t)
	for _, talk := range l.talks {
		talk.check(t, "other-0 to other-1")
	}
	l.expectNoLeaks(t)
	agentsReady(t)
}

// TestNodeDeleted: a Node is deleted from the API while its kubelet stands still. Its
// pods go on as before, as long as they are in the API; those that are deleted then are
// closed, as is what nobody knows in its range.
func TestNodeDeleted(t *testing.T) {
	ctx := context.Background()
	l := newLostPods(t)
	unknown := newStowaway(t, "node2", l.addressesInRange())
	node, err := client.CoreV1().Nodes().Get(ctx, "node2", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	unknown.expectClosed(t, l.others[0])
	freezeKubelet(t, "node2")
	if err := client.CoreV1().Nodes().Delete(ctx, "node2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	time.Sleep(lostWithin)
	expectOpenNow(t, slices.Concat(waysBetween(t, l.others, l.victims), waysBetween(t, l.victims, l.others)))
	unknown.expectClosed(t, l.others[0])
	deleteByForce(t, l.victims...)
	l.expectLost(t, time.Now().Add(lostWithin))
	l.forget(l.victims...)
	expectOpenNow(t, waysBetween(t, l.others, l.others))
	t.Logf("the Node was away for %s", time.Since(deleted).Round(time.Second))

	// As somebody does who has kept it; the node itself would ask for another range.
	again := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, Annotations: node.Annotations},
		Spec:       corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
	}
	if _, err := client.CoreV1().Nodes().Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	restartKubelet(t, "node2")
	l.expectEnded(t)
	for _, talk := range l.talks {
		talk.check(t, "other-0 to other-1")
	}
	l.expectNoLeaks(t)
}

// TestNodeForgotten: a Node is deleted, and stays away until the API server has deleted
// its pods as well, the agent's among them. Their containers run, and nothing passes to
// or from any. When the node is back it may have another range, in which all is as it
// should be.
func TestNodeForgotten(t *testing.T) {
	ctx := context.Background()
	l := newLostPods(t)
	for _, talk := range l.talks {
		talk.end()
	}
	l.victims, l.others = append(l.victims, l.others...), nil
	freezeKubelet(t, "node2")
	if err := client.CoreV1().Nodes().Delete(ctx, "node2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	check.Eventually(t, 4*time.Minute, "the pods of a Node that is gone to be deleted", func() error {
		left, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node2"})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d are left", len(left.Items))
		}
		return err
	})
	l.expectLost(t, time.Now().Add(lostWithin))
	l.forget(l.victims...)
	l.expectNoLeaks(t)
	l.forget(l.deniedPods()...)
	restartKubelet(t, "node2")
	l.sweepRange(t)
	t.Logf("the node's range begins at %s now", l.addressesInRange()[0])
	l.expectEnded(t)
}

// restartKubelet ends a node's kubelet, which starts again, and waits until the node and
// all agents are ready.
func restartKubelet(t *testing.T, node string) {
	t.Helper()
	if err := theCluster.Signal(node, "kubelet", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	check.Eventually(t, time.Minute, node+" to have a range for its pods", func() error {
		object, err := client.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
		if err == nil && len(object.Spec.PodCIDRs) == 0 {
			err = errors.New("it has none")
		}
		return err
	})
	agentsReady(t)
}

// expectOpenNow fails the test for each of the ways that is not open.
func expectOpenNow(t *testing.T, ways []way) {
	t.Helper()
	for _, w := range ways {
		if err := w.opens(); err != nil {
			t.Error(err)
		}
	}
}

// stowaway is a network namespace on a node with an address of its pod range, that
// podfence was not told of.
type stowaway struct {
	podNetNS string
	ips      []string
}

// newStowaway makes one with the last address of each range, of those listed, that a pod
// can have. Its node reaches it.
func newStowaway(t *testing.T, node string, all []netip.Addr) *stowaway {
	t.Helper()
	const name = "stowaway"
	command := func(text string) { run(t, node, strings.Fields(text)...) }
	command("ip netns add " + name)
	t.Cleanup(func() { command("ip netns del " + name) })
	for _, text := range []string{
		"ip link add stowaway type veth peer name eth0 netns " + name,
		"ip link set stowaway up",
		"ip -n " + name + " link set lo up",
		"ip -n " + name + " link set eth0 up",
	} {
		command(text)
	}
	// For IPv6 its node answers no solicitation by a link that does not have the address.
	mac := strings.TrimSpace(run(t, node, "cat", "/sys/class/net/stowaway/address"))
	var ips []string
	for _, gateway := range nodeIPs(t, node) {
		family := netip.MustParseAddr(gateway)
		var last netip.Addr
		for _, ip := range all {
			if ip.Is4() == family.Is4() && (!last.IsValid() || last.Less(ip)) {
				last = ip
			}
		}
		if !last.IsValid() {
			continue
		}
		if last.Is4() {
			last = last.Prev() // that was the broadcast address
		}
		ips = append(ips, last.String())
		for _, text := range []string{
			"ip -n " + name + " addr add " + last.String() + " dev eth0 nodad",
			"ip -n " + name + " route add " + gateway + " dev eth0",
			"ip -n " + name + " neigh add " + gateway + " lladdr " + mac + " dev eth0",
			"ip -n " + name + " route add default via " + gateway + " dev eth0",
			"ip route add " + last.String() + " dev stowaway",
		} {
			command(text)
		}
	}
	host, err := theCluster.HostProcess(node)
	if err != nil {
		t.Fatal(err)
	}
	s := &stowaway{podNetNS: host + "/root/run/netns/" + name, ips: ips}
	s.serve(t)
	for _, w := range s.waysAt(node, theCluster.HostNetNS(node)) {
		if err := w.opens(); err != nil {
			t.Fatalf("its own node must reach it: %v", err)
		}
	}
	return s
}

// serve answers as newPod's pods do.
func (s *stowaway) serve(t *testing.T) {
	t.Helper()
	var listener net.Listener
	err := netns.InsidePath(s.podNetNS, func() (err error) {
		listener, err = net.Listen("tcp", ":8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "stowaway") })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
}

func (s *stowaway) waysAt(name, podNetNS string) []way {
	return ways(name+" to a stowaway", podNetNS, s.ips, 8080, 0)
}

// expectClosed fails the test unless the way between a stowaway and a pod of its node is
// closed, both ways, and it is podfence that closes it.
func (s *stowaway) expectClosed(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	before := dropped(t, "node2", "no pod known by this address")
	for _, w := range append(s.waysAt(pod.Name, netnsOf(t, pod)), waysToPod("a stowaway to "+pod.Name, s.podNetNS, pod)...) {
		if err := w.closed(); err != nil {
			t.Error(err)
		}
		after := dropped(t, "node2", "no pod known by this address")
		if after == before {
			t.Errorf("%s: podfence has dropped nothing", w)
		}
		before = after
	}
}

var packetsDropped = regexp.MustCompile(`counter packets ([0-9]+) .*(?:drop|jump denied\S*) comment "([^"]*)"`)

// dropped counts what the rules with a comment have dropped on a node.
func dropped(t *testing.T, node, comment string) (total int) {
	t.Helper()
	for _, match := range packetsDropped.FindAllStringSubmatch(run(t, node, "nft", "list", "table", "inet", "podfence"), -1) {
		if match[2] == comment {
			packets, _ := strconv.Atoi(match[1])
			total += packets
		}
	}
	return total
}
