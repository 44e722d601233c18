//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
	"github.com/podfence/podfence/test/prebuilt"
	"github.com/podfence/podfence/test/quantiles"
)

// firstPackets is how many pods TestFirstPacket starts that are let in, and how many that are not.
var firstPackets = flag.Int("first-packets", 100, "how many pods TestFirstPacket starts that are let in, and how many that are not")

const (
	// firstAtOnce is how many pods are started together.
	firstAtOnce = 40
	// firstPort is the port that the first pod sends from. Each has a port of its own, so that what
	// arrives says whose it is, whatever address it has and whoever had that before.
	firstPort = 20000
	// letInPatience is how long a pod that is let in waits for its answers, and keptOutPatience how
	// long one that is not does: its SYN is sent again after a second.
	letInPatience, keptOutPatience = 10 * time.Second, 1500 * time.Millisecond
	// besidePerSecond is how many pods come and go in the API meanwhile.
	besidePerSecond = 50
)

// TestFirstPacket: pods on node1 connect with their first instructions, by TCP and by UDP in all
// families of the cluster, to a pod on node2 whose policy lets some of them in by their label. No
// SYN of these is sent twice, by the count of the sender's kernel, and no datagram is lost; and of
// the others no packet arrives, by what a packet socket sees in the receiver's namespace. Other pods
// come and go meanwhile, and half of the senders are isolated for egress.
func TestFirstPacket(t *testing.T) {
	expectAnnouncing(t)
	ns := newNamespace(t)
	apply(t, ingressFrom(ns, "server", podsWith("role", "friend")))
	apply(t, egressTo(ns, "egress", "isolated", podsWith("app", "server")))
	server := start(t, newPod(ns, "server", on("node2")))[0]
	folder := firstPacketFolder(t)
	arrived := sniff(t, netnsOf(t, server))
	beside := comeAndGo(t, ns)

	f := &firsts{folder: folder, server: server, arrived: arrived}
	all := 2 * *firstPackets
	began := time.Now()
	for made := 0; made < all; made += firstAtOnce {
		var batch []*firstPod
		for i := made; i < min(made+firstAtOnce, all); i++ {
			batch = append(batch, newFirstPod(ns, i, server))
		}
		f.run(t, batch)
	}
	took := time.Since(began)
	beside.end(t, took)
	arrived.missedNone(t)
	f.judge(t)
	families := len(podIPs(server))
	t.Logf("%d pods that are let in and %d that are not, %d at a time, in %d address families; it took %s, %s of which until they had sent", all/2, all/2, firstAtOnce, families, took.Round(time.Second), f.started.Round(time.Second))
	t.Logf("let in: %d connections, %d SYNs sent twice (of %d segments sent twice); %d datagrams, %d lost, %d answers lost",
		f.connections, f.synsTwice, f.segmentsTwice, f.datagrams, f.datagramsLost, f.answersLost)
	t.Logf("kept out: %d SYNs and %d datagrams sent, %d packets arrived", f.deniedSYNs, f.deniedDatagrams, f.leaked)
	for _, what := range []struct {
		name  string
		times []time.Duration
	}{{"connect", f.connects}, {"answered datagram", f.answers}} {
		slices.Sort(what.times)
		if n := len(what.times); n > 0 {
			lo, hi := quantiles.Interval(what.times, 0.5)
			t.Logf("%s, by the pod's own clock: p50 %s (%s to %s), p99 %s, at most %s", what.name, what.times[n/2], lo, hi, what.times[n*99/100], what.times[n-1])
		}
	}
	if want := all / 2 * families; f.connections != want || f.datagrams != want {
		t.Errorf("%d connections and %d datagrams were tried by those let in, want %d of each", f.connections, f.datagrams, want)
	}
	if f.deniedSYNs < all/2*families || f.deniedDatagrams < all/2*families {
		t.Errorf("those kept out have hardly sent anything")
	}
}

// firstPod is one pod that sends.
type firstPod struct {
	*corev1.Pod
	letIn bool
	port  uint16
}

func newFirstPod(namespace string, i int, server *corev1.Pod) *firstPod {
	p := &firstPod{letIn: i%2 == 0, port: uint16(firstPort + i)}
	role, patience := "friend", letInPatience
	if !p.letIn {
		role, patience = "stranger", keptOutPatience
	}
	no := false
	p.Pod = newPod(namespace, fmt.Sprintf("first-%04d", i), on("node1"), labelled("role", role), labelled("batch", batchOf(i/firstAtOnce)))
	if i/2%2 == 1 {
		p.Labels["egress"] = "isolated"
	}
	p.Spec.AutomountServiceAccountToken = &no
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.Volumes = []corev1.Volume{{Name: "e2e", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: firstFolder}}}}
	c := &p.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "e2e", MountPath: firstFolder}}
	c.Command = []string{firstFolder + "/firstpacket"}
	c.Args = append([]string{firstFolder + "/" + p.Name, strconv.Itoa(int(p.port)), patience.String()}, podIPs(server)...)
	return p
}

// firstFolder is where the program is on node1, and where it writes what has come of it.
const firstFolder = "/var/lib/e2e-firstpacket"

// firstPacketFolder puts the program there, and returns where that is for the test.
func firstPacketFolder(t *testing.T) string {
	t.Helper()
	host, err := theCluster.HostProcess("node1")
	if err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(t.TempDir(), "firstpacket")
	if err := prebuilt.FirstPacket(made); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(host, "root", firstFolder)
	run(t, "node1", "rm", "-rf", firstFolder)
	run(t, "node1", "mkdir", "-p", firstFolder)
	t.Cleanup(func() { run(t, "node1", "rm", "-rf", firstFolder) })
	if err := os.WriteFile(filepath.Join(folder, "firstpacket"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

// firstResult is what the program in a pod says.
type firstResult struct {
	NetNS string
	Tries []struct {
		Network, Address string
		Micros           int64
		Error            string
	}
}

// firsts is what has come of all of them.
type firsts struct {
	folder  string
	server  *corev1.Pod
	arrived *sniffer
	pods    []*firstPod
	batches int

	connections, synsTwice, segmentsTwice, datagrams, datagramsLost, answersLost int
	deniedSYNs, deniedDatagrams, leaked                                          int
	connects, answers                                                            []time.Duration
	// started is how long it took to start all of them.
	started time.Duration
}

// run starts pods, waits until all have said how it went, reads their kernel's counts, and has
// them deleted.
func (f *firsts) run(t *testing.T, batch []*firstPod) {
	t.Helper()
	pods := client.CoreV1().Pods(batch[0].Namespace)
	began := time.Now()
	for _, p := range batch {
		created, err := pods.Create(context.Background(), p.Pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Pod = created
	}
	for _, p := range batch {
		check.Eventually(t, 3*time.Minute, p.Name+" to have sent its packets", func() error {
			_, err := os.Stat(filepath.Join(f.folder, p.Name))
			return err
		})
	}
	f.started += time.Since(began)
	for _, p := range batch {
		f.count(t, p)
	}
	f.pods = append(f.pods, batch...)
	var deleted sync.WaitGroup
	for _, p := range batch {
		deleted.Go(func() {
			if err := pods.Delete(context.Background(), p.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	deleted.Wait()
	// They end while the next ones start, and no more than these.
	check.Eventually(t, 3*time.Minute, "pods of before to be gone", func() error {
		left, err := pods.List(context.Background(), metav1.ListOptions{LabelSelector: "batch=" + batchOf(f.batches-1)})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d are left", len(left.Items))
		}
		return err
	})
	f.batches++
}

// count takes down what a pod's kernel has counted, and what its program says.
func (f *firsts) count(t *testing.T, p *firstPod) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.folder, p.Name))
	if err != nil {
		t.Fatal(err)
	}
	var said firstResult
	if err := json.Unmarshal(text, &said); err != nil {
		t.Fatalf("%s: %v: %s", p.Name, err, text)
	}
	process, err := cluster.PodProcess(string(p.UID))
	if err != nil {
		t.Fatal(err)
	}
	if inside, err := os.Readlink(filepath.Join(process, "ns", "net")); err != nil || inside != said.NetNS {
		t.Fatalf("%s: %s is in %s, and its program in %s: %v", p.Name, process, inside, said.NetNS, err)
	}
	counts, err := counters(process)
	if err != nil {
		t.Fatal(err)
	}
	connections, datagrams := 0, 0
	for _, try := range said.Tries {
		took := time.Duration(try.Micros) * time.Microsecond
		if try.Network == "tcp" {
			connections++
		} else {
			datagrams++
		}
		switch {
		case p.letIn && try.Error != "":
			t.Errorf("%s by %s to %s, which must be allowed: %s after %s", p.Name, try.Network, try.Address, try.Error, took)
			if try.Network == "udp" {
				f.answersLost++
			}
		case !p.letIn && try.Error == "":
			t.Errorf("%s has reached %s by %s, and must not", p.Name, try.Address, try.Network)
		case p.letIn && try.Network == "tcp":
			f.connects = append(f.connects, took)
		case p.letIn:
			f.answers = append(f.answers, took)
		}
	}
	syns, again, sent := counts["TcpExtTCPSynRetrans"], counts["TcpRetransSegs"], counts["UdpOutDatagrams"]+counts["Udp6OutDatagrams"]
	if counts["TcpActiveOpens"] != connections || counts["TcpOutSegs"] == 0 || sent != datagrams {
		t.Fatalf("%s: the kernel has counted %d connections, %d segments and %d datagrams, and the program %d connections and %d datagrams",
			p.Name, counts["TcpActiveOpens"], counts["TcpOutSegs"], sent, connections, datagrams)
	}
	if !p.letIn {
		f.deniedSYNs += connections + syns
		f.deniedDatagrams += datagrams
		return
	}
	f.connections += connections
	f.datagrams += datagrams
	f.synsTwice += syns
	f.segmentsTwice += again
	if syns > 0 || again > 0 {
		t.Errorf("%s has sent %d SYNs and %d segments again: %+v", p.Name, syns, again, said.Tries)
	}
}

// judge looks at what has arrived at the server.
func (f *firsts) judge(t *testing.T) {
	t.Helper()
	for _, p := range f.pods {
		got := f.arrived.from(p.port)
		if !p.letIn {
			if got.packets > 0 {
				f.leaked += got.packets
				t.Errorf("%d packets of %s have arrived, from %s, and none may", got.packets, p.Name, got.sources)
			}
			continue
		}
		families := len(podIPs(f.server))
		if got.syns < families || got.packets == 0 {
			t.Errorf("%d SYNs of %s were seen, and it has %d connections: the packet socket misses some", got.syns, p.Name, families)
		}
		if lost := families - got.datagrams; lost > 0 {
			f.datagramsLost += lost
			t.Errorf("%d datagrams of %s have not arrived", lost, p.Name)
		}
	}
}

// passers are pods that come and go beside a test: real ones, on both nodes, one after the other on
// each; and such of which only the API knows, on a Node that is no more than an object.
type passers struct {
	real, shown atomic.Int64
	stop        context.CancelFunc
	wait        sync.WaitGroup

	mu     sync.Mutex
	errors []error
}

// comeAndGo starts them. Half of them have the label by which a server lets its friends in.
func comeAndGo(t *testing.T, namespace string) *passers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &passers{stop: cancel}
	t.Cleanup(func() { cancel(); p.wait.Wait() })
	fast := *config
	fast.QPS, fast.Burst = 1000, 1000
	api, err := kubernetes.NewForConfig(&fast)
	if err != nil {
		t.Fatal(err)
	}
	pods := api.CoreV1().Pods(namespace)
	pod := func(node, name string, n int64) *corev1.Pod {
		no := false
		made := newPod(namespace, name, on(node), labelled("role", []string{"friend", "stranger"}[n%2]))
		made.Spec.AutomountServiceAccountToken = &no
		made.Spec.Containers[0].Args = []string{"pause"}
		return made
	}
	now := int64(0)
	gone := metav1.DeleteOptions{GracePeriodSeconds: &now}
	note := func(err error) {
		if err != nil {
			p.mu.Lock()
			p.errors = append(p.errors, err)
			p.mu.Unlock()
		}
	}
	for _, node := range bothNodes {
		p.wait.Go(func() {
			for ctx.Err() == nil {
				n := p.real.Add(1)
				created, err := pods.Create(context.Background(), pod(node, fmt.Sprintf("passes-%s-%d", node, n), n), metav1.CreateOptions{})
				if err != nil {
					note(err)
					return
				}
				for created.Status.Phase != corev1.PodRunning && ctx.Err() == nil {
					time.Sleep(100 * time.Millisecond)
					if seen, err := pods.Get(context.Background(), created.Name, metav1.GetOptions{}); err == nil {
						created = seen
					}
				}
				note(pods.Delete(context.Background(), created.Name, gone))
			}
		})
	}

	const paper = "paper-node"
	ranges := paperNode(t, paper)
	t.Cleanup(func() { cancel(); p.wait.Wait() }) // before the Node is deleted, and its pods with it
	var addresses [][]corev1.PodIP                // for one pod each
	for i := range 200 {
		var ips []corev1.PodIP
		for _, cidr := range ranges {
			ips = append(ips, corev1.PodIP{IP: nthAddress(cidr, 2+i)})
		}
		addresses = append(addresses, ips)
	}
	p.wait.Go(func() {
		tick := time.NewTicker(time.Second / besidePerSecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			p.wait.Go(func() {
				n := p.shown.Add(1)
				created, err := pods.Create(context.Background(), pod(paper, fmt.Sprintf("paper-%d", n), n), metav1.CreateOptions{})
				if err != nil {
					note(err)
					return
				}
				created.Status.Phase = corev1.PodRunning
				created.Status.PodIPs = addresses[int(n)%len(addresses)]
				created.Status.PodIP = created.Status.PodIPs[0].IP
				_, err = pods.UpdateStatus(context.Background(), created, metav1.UpdateOptions{})
				note(err)
				select { // It stays for a second.
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
				note(pods.Delete(context.Background(), created.Name, gone))
			})
		}
	})
	return p
}

// paperNode makes a Node that is no more than an object until the end of the test, and returns the
// ranges that it has for pods.
func paperNode(t *testing.T, name string) (ranges []string) {
	t.Helper()
	// The label keeps the agents' DaemonSet off it.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"podfence.io/uninstall": "true"}}}
	if _, err := client.CoreV1().Nodes().Create(context.Background(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	check.Eventually(t, time.Minute, name+" to have ranges for its pods", func() error {
		node, err := client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
		if err == nil && len(node.Spec.PodCIDRs) == 0 {
			err = errors.New("it has none")
		}
		if err == nil {
			ranges = node.Spec.PodCIDRs
		}
		return err
	})
	return ranges
}

// nthAddress is one of a range, counted from its beginning, of at most 255.
func nthAddress(cidr string, n int) string {
	bytes := netip.MustParsePrefix(cidr).Addr().AsSlice()
	bytes[len(bytes)-1] += byte(n)
	ip, _ := netip.AddrFromSlice(bytes)
	return ip.String()
}

// end ends it, and says how many there were.
func (p *passers) end(t *testing.T, took time.Duration) {
	t.Helper()
	p.stop()
	p.wait.Wait()
	t.Logf("beside it, %.1f pods a second have come and gone in the API, and %.1f real ones on both nodes", float64(p.shown.Load())/took.Seconds(), float64(p.real.Load())/took.Seconds())
	if len(p.errors) > 0 {
		t.Errorf("%d errors of those who make pods come and go, at first: %v", len(p.errors), p.errors[0])
	}
	if p.shown.Load() < 10 || p.real.Load() < 2 {
		t.Error("hardly any pods have come and gone")
	}
}

// batchOf is the label of those that are started together.
func batchOf(batch int) string { return fmt.Sprintf("batch%d", batch) }
