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
	"os"
	"path/filepath"
	"strconv"
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
	"github.com/podfence/podfence/test/cluster"
)

// sprayPort is where spray sends to. Nothing of a test listens on it.
const sprayPort = 9999

// spray sends UDP packets, from the pod given, to each address that a pod on
// any node may get next, over and over until the test ends: whoever starts
// there gets one right away, if nothing stops it.
func spray(t *testing.T, from *corev1.Pod) {
	t.Helper()
	// Slow enough to leave the machine to the cluster.
	sendTo(t, from, 100*time.Millisecond, podAddresses(t))
}

// sendTo sends a UDP packet to each of the addresses at each tick, until the
// test ends.
func sendTo(t *testing.T, from *corev1.Pod, every time.Duration, targets []netip.Addr) {
	t.Helper()
	var sockets [2]*net.UDPConn // by family, IPv4 first
	err := netns.InsidePath(netnsOf(t, from), func() (err error) {
		for _, ip := range from.Status.PodIPs {
			addr := netip.MustParseAddr(ip.IP)
			if sockets[family(addr)], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(every); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			for _, target := range targets {
				if conn := sockets[family(target)]; conn != nil {
					// An error is that of an earlier packet: nobody is there.
					_, _ = conn.WriteToUDPAddrPort([]byte("spray"), netip.AddrPortFrom(target, sprayPort))
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		for _, conn := range sockets {
			if conn != nil {
				conn.Close()
			}
		}
	})
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// podAddresses are the addresses that pods may get next: leases go upwards. Of
// an IPv4 range it is all.
func podAddresses(t *testing.T) []netip.Addr {
	t.Helper()
	nodes, err := client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []netip.Addr
	for _, node := range nodes.Items {
		for _, text := range node.Spec.PodCIDRs {
			cidr := netip.MustParsePrefix(text)
			first := cidr.Addr()
			for _, pod := range pods.Items {
				for _, ip := range pod.Status.PodIPs {
					if a := netip.MustParseAddr(ip.IP); a.Is6() && cidr.Contains(a) && first.Less(a) {
						first = a
					}
				}
			}
			for a, n := first, 0; n < 300 && cidr.Contains(a); a, n = a.Next(), n+1 {
				all = append(all, a)
			}
		}
	}
	return all
}

// received counts the UDP packets that have come in to a pod that runs, since
// its network namespace was made: the kernel's own count, which misses none.
func received(t *testing.T, pod *corev1.Pod) int {
	t.Helper()
	return receivedBy(t, pod, 0) + receivedBy(t, pod, 1)
}

// receivedBy is received for one family.
func receivedBy(t *testing.T, pod *corev1.Pod, family int) int {
	t.Helper()
	process, err := cluster.PodProcess(string(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	counts, err := counters(process)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, name := range []string{"InDatagrams", "NoPorts", "InErrors"} {
		count, ok := counts[[]string{"Udp", "Udp6"}[family]+name]
		if !ok {
			t.Fatalf("the kernel has no counter %s of family %d", name, family)
		}
		total += count
	}
	return total
}

// sprayed waits until packets of each family have arrived at a pod, one that
// nothing protects.
func sprayed(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	for _, ip := range pod.Status.PodIPs {
		check.Eventually(t, time.Minute, pod.Name+" to be sprayed at "+ip.IP, func() error {
			if receivedBy(t, pod, family(netip.MustParseAddr(ip.IP))) == 0 {
				return errors.New("nothing has arrived")
			}
			return nil
		})
	}
}

// counters reads net/snmp and net/netstat, whose lines are names and then values, and
// net/snmp6, of name and value.
func counters(process string) (map[string]int, error) {
	counts := map[string]int{}
	for _, name := range []string{"snmp", "netstat"} {
		old, err := os.ReadFile(filepath.Join(process, "net", name))
		if err != nil {
			return nil, err
		}
		lines := strings.Split(strings.TrimSpace(string(old)), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j := 1; j < len(names) && j < len(values); j++ {
				counts[strings.TrimSuffix(names[0], ":")+names[j]], _ = strconv.Atoi(values[j])
			}
		}
	}
	file, err := os.Open(filepath.Join(process, "net", "snmp6"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		if words := strings.Fields(scanner.Text()); len(words) == 2 {
			counts[words[0]], _ = strconv.Atoi(words[1])
		}
	}
	return counts, nil
}

// steady is traffic that should never stop: one HTTP connection that is kept,
// and a new one every 20 ms.
type steady struct {
	requests, connections, slow atomic.Int64

	mu     sync.Mutex
	errors []error
	stop   context.CancelFunc
	wait   sync.WaitGroup
}

// keepTalking starts steady traffic from a pod to an address.
func keepTalking(t *testing.T, from *corev1.Pod, ip string) *steady {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &steady{stop: cancel}
	podNetNS, address := netnsOf(t, from), hostPort(ip, 8080)
	connect := func() (conn net.Conn, err error) {
		err = netns.InsidePath(podNetNS, func() error {
			conn, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
			return err
		})
		return conn, err
	}
	every := func(d time.Duration, do func() error) {
		s.wait.Go(func() {
			for tick := time.NewTicker(d); ; {
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
				}
				if err := do(); err != nil && ctx.Err() == nil {
					s.mu.Lock()
					s.errors = append(s.errors, fmt.Errorf("%s %s to %s: %w", time.Now().Format("15:04:05.000"), from.Name, address, err))
					s.mu.Unlock()
				}
			}
		})
	}
	kept, err := connect()
	for until := time.Now().Add(10 * time.Second); errors.Is(err, unix.ECONNREFUSED) && time.Now().Before(until); { // its server has not begun yet
		time.Sleep(50 * time.Millisecond)
		kept, err = connect()
	}
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(kept)
	every(10*time.Millisecond, func() error {
		if kept == nil {
			return nil // it has broken, and been reported
		}
		err := ask(kept, answers)
		if err == nil {
			s.requests.Add(1)
			return nil
		}
		err = fmt.Errorf("the connection that was kept: %w", errors.Join(err, kept.Close()))
		kept = nil
		return err
	})
	every(20*time.Millisecond, func() error {
		begin := time.Now()
		conn, err := connect()
		if err != nil {
			return err
		}
		s.connections.Add(1)
		if time.Since(begin) > 900*time.Millisecond {
			s.slow.Add(1) // its first packet was lost, and sent again
		}
		return conn.Close()
	})
	t.Cleanup(s.end)
	return s
}

// ask sends one request on a connection and reads the answer.
func ask(conn net.Conn, answers *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET /hostname HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func (s *steady) end() {
	s.stop()
	s.wait.Wait()
}

// check ends the traffic; none of it may have been lost.
func (s *steady) check(t *testing.T, what string) {
	t.Helper()
	s.end()
	t.Logf("%s: %d requests on a kept connection, %d new connections, %d of them with a packet sent twice; %d errors",
		what, s.requests.Load(), s.connections.Load(), s.slow.Load(), len(s.errors))
	for _, err := range s.errors {
		t.Errorf("%s: %v", what, err)
	}
	if s.requests.Load() < 100 || s.connections.Load() < 50 {
		t.Errorf("%s: hardly any traffic", what)
	}
}

// knock sends UDP packets from a pod to others, on all their addresses, until
// the test ends.
func knock(t *testing.T, from *corev1.Pod, to ...*corev1.Pod) {
	t.Helper()
	var targets []netip.Addr
	for _, pod := range to {
		for _, ip := range pod.Status.PodIPs {
			targets = append(targets, netip.MustParseAddr(ip.IP))
		}
	}
	sendTo(t, from, 2*time.Millisecond, targets)
}
