package node_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
)

const patience = 5 * time.Second

// space is a network namespace of a test.
type space struct {
	t  testing.TB
	fd int
}

func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t}
	err := thread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespaces need root: %w", err)
		}
		s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if errors.Is(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	s.ip("link set lo up")
	// Detection of duplicates on the links that are not podfence's would have
	// each test wait two seconds.
	s.setSysctl("net/ipv6/conf/default/accept_dad", "0")
	return s
}

// thread runs f on a thread that ends with it.
func thread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func (s *space) do(f func() error) error {
	return thread(func() error {
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// try runs ip(8) in the namespace, and returns what it prints.
func (s *space) try(args string) (out string, err error) {
	return s.command(append([]string{"ip"}, strings.Fields(args)...)...)
}

// command runs a command in the namespace, and returns what it prints.
func (s *space) command(words ...string) (out string, err error) {
	err = s.do(func() error {
		text, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		out = strings.TrimSpace(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
		}
		return nil
	})
	return out, err
}

func (s *space) ip(commands ...string) (out string) {
	s.t.Helper()
	for _, c := range commands {
		var err error
		if out, err = s.try(c); err != nil {
			s.t.Fatal(err)
		}
	}
	return out
}

// path is a name of the namespace for ip(8).
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.fd) }

func (s *space) sysctl(name string) (value string) {
	s.t.Helper()
	err := s.do(func() error {
		text, err := os.ReadFile(filepath.Join("/proc/sys", name))
		value = strings.TrimSpace(string(text))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return value
}

func (s *space) setSysctl(name, value string) {
	s.t.Helper()
	if err := s.do(func() error { return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0) }); err != nil {
		s.t.Fatal(err)
	}
}

// peer is a node of a test, with its namespace, and a pod.
type peer struct {
	*space
	node.Node
	pod *space
	net *node.Network
	// pods are what the agent knows of.
	pods []node.Pod
}

// podIPs are the second addresses of the node's ranges.
func (p *peer) podIPs() (ips []netip.Addr) {
	for _, c := range p.PodCIDRs {
		ips = append(ips, c.Addr().Next().Next())
	}
	return ips
}

func (p *peer) open(options node.Options) *node.Network {
	p.t.Helper()
	options.NetNS, options.Node = p.fd, p.Name
	n, err := node.Open(options)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.net != nil {
		_ = p.net.Close()
	}
	p.net = n
	p.t.Cleanup(func() { _ = n.Close() })
	return n
}

// reconcile must succeed, and find nothing to do the second time.
func (p *peer) reconcile(others ...node.Node) int {
	p.t.Helper()
	changes, err := p.net.Reconcile(p.Node, others, p.pods)
	if err != nil {
		p.t.Fatalf("%s: %v", p.Name, err)
	}
	if again, err := p.net.Reconcile(p.Node, others, p.pods); len(again) != 0 || err != nil {
		p.t.Fatalf("%s: again: %v, %v", p.Name, again, err)
	}
	return len(changes)
}

const podMAC = "02:00:00:00:00:aa"

// connect gives the node a pod, as the CNI plugin does.
func (p *peer) connect() {
	p.t.Helper()
	mtu, err := p.net.MTU()
	if err != nil {
		p.t.Fatal(err)
	}
	p.pod = newSpace(p.t)
	p.ip(fmt.Sprintf("link add pf0 mtu %d type veth peer name eth0 address %s mtu %d netns %s", mtu, podMAC, mtu, p.pod.path()),
		"link set pf0 master podfence0 up")
	p.pod.ip("link set eth0 up")
	for i, a := range p.podIPs() {
		gateway := p.PodCIDRs[i].Addr().Next()
		nodad := ""
		if a.Is6() {
			nodad = " nodad"
		}
		p.pod.ip("addr add "+netip.PrefixFrom(a, a.BitLen()).String()+" dev eth0"+nodad, "route add default via "+gateway.String()+" dev eth0 onlink")
		p.ip(fmt.Sprintf("route add %s dev podfence0 proto 112", netip.PrefixFrom(a, a.BitLen())),
			fmt.Sprintf("neigh replace %s lladdr %s nud permanent dev podfence0", a, podMAC))
	}
}

func (p *peer) routes() string {
	p.t.Helper()
	return p.ip("-4 route show table all proto 112") + "\n" + p.ip("-6 route show table all proto 112") + "\n" +
		p.ip("-4 rule") + "\n" + p.ip("-6 rule")
}

// newPeer is node i, with two families.
func newPeer(t testing.TB, i int, addrs ...string) *peer {
	p := &peer{space: newSpace(t), Node: node.Node{Name: fmt.Sprintf("node%d", i)}}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	p.PodCIDRs = []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i)),
	}
	return p
}

// cable connects a node to a namespace and gives its end addresses; the other
// end is called like the node.
func (p *peer) cable(to *space, mtu int) {
	p.t.Helper()
	p.ip(fmt.Sprintf("link add eth0 mtu %d type veth peer name %s mtu %d netns %s", mtu, p.Name, mtu, to.path()), "link set eth0 up")
	to.ip("link set " + p.Name + " up")
}

// shared is nodes on one link: node1 is 192.168.1.1, fd00:1::1 and so on.
func shared(t *testing.T, count, mtu int) (nodes []*peer) {
	t.Helper()
	wire := newSpace(t)
	wire.ip("link add wire type bridge", "link set wire up")
	for i := 1; i <= count; i++ {
		p := newPeer(t, i, fmt.Sprintf("192.168.1.%d", i), fmt.Sprintf("fd00:1::%d", i))
		p.cable(wire, mtu)
		wire.ip("link set " + p.Name + " master wire")
		p.ip(fmt.Sprintf("addr add 192.168.1.%d/24 dev eth0", i), fmt.Sprintf("addr add fd00:1::%d/64 dev eth0 nodad", i))
		nodes = append(nodes, p)
	}
	return nodes
}

// routed is nodes, each on a link of its own, around a router that drops what
// doesn't come from a node: node1 is 192.168.1.2, fd00:1::2, node2 192.168.2.2.
func routed(t *testing.T, count, mtu int, v6first bool) (nodes []*peer, router *space) {
	t.Helper()
	router = newSpace(t)
	router.setSysctl("net/ipv4/ip_forward", "1")
	router.setSysctl("net/ipv6/conf/all/forwarding", "1")
	router.setSysctl("net/ipv4/conf/all/rp_filter", "1")
	for i := 1; i <= count; i++ {
		addrs := []string{fmt.Sprintf("192.168.%d.2", i), fmt.Sprintf("fd00:%d::2", i)}
		if v6first {
			slices.Reverse(addrs)
		}
		p := newPeer(t, i, addrs...)
		p.cable(router, mtu)
		router.ip(fmt.Sprintf("addr add 192.168.%d.1/24 dev %s", i, p.Name), fmt.Sprintf("addr add fd00:%d::1/64 dev %s nodad", i, p.Name))
		p.ip(fmt.Sprintf("addr add 192.168.%d.2/24 dev eth0", i), fmt.Sprintf("addr add fd00:%d::2/64 dev eth0 nodad", i),
			fmt.Sprintf("route add default via 192.168.%d.1", i), fmt.Sprintf("-6 route add default via fd00:%d::1", i))
		nodes = append(nodes, p)
	}
	return nodes, router
}

// start opens all nodes, has each know of all, and gives each a pod.
func start(t *testing.T, nodes []*peer, options node.Options) {
	t.Helper()
	for _, p := range nodes {
		p.open(options)
		p.reconcile(all(nodes)...)
		p.connect()
		p.reconcile(all(nodes)...)
	}
}

func all(nodes []*peer) (list []node.Node) {
	for _, p := range nodes {
		list = append(list, p.Node)
	}
	return list
}
