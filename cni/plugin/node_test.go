package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/plugin"
)

// space is a network namespace of a test's own.
type space struct {
	t  testing.TB
	fd int
	// path is good for other processes, too.
	path string
}

func newSpace(t testing.TB) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces of the test's own need root: skipped")
	}
	if err := build(); err != nil {
		t.Fatal(err)
	}
	s := &space{t: t}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.fd)
	t.Cleanup(s.close)
	return s
}

// close lets the namespace go. It may be called again.
func (s *space) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// do runs f on a thread of the namespace; f must not end the test.
func (s *space) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func (s *space) must(f func() error) {
	s.t.Helper()
	if err := s.do(f); err != nil {
		s.t.Fatal(err)
	}
}

func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
}

// node is a namespace that forwards, has an uplink, and pods by the plugin.
type node struct {
	*space
	agent *agent
	conf  map[string]any
	bin   string
	env   []string
	cni   *libcni.CNIConfig
}

// The node's own address and uplink.
var nodeIPs = parse("192.0.2.1", "2001:db8::1")

const uplinkMTU = 1450

func parse(addrs ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range addrs {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// newNode makes a node with an agent; overrides change its configuration, nil
// removes a key.
func newNode(t testing.TB, overrides map[string]any) *node {
	t.Helper()
	n := &node{space: newSpace(t), bin: binDir}
	dir := t.TempDir()
	n.agent = startAgent(t, filepath.Join(dir, "agent.sock"))
	n.conf = map[string]any{
		"cniVersion": "1.1.0", "name": "pods", "type": "podfence",
		"podCIDRs": []string{"10.244.1.0/24", "fd00:10:244:1::/64"},
		"socket":   n.agent.socket, "dataDir": filepath.Join(dir, "leases"), "timeout": 5,
	}
	for key, value := range overrides {
		if n.conf[key] = value; value == nil {
			delete(n.conf, key)
		}
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{binDir}, filepath.Join(dir, "cache"), n)
	outside := newSpace(t)
	n.must(func() error {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"} {
			if err := sysctl("net/"+name, "1"); err != nil {
				return err
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "up0", uplinkMTU
		link := netlink.NewVeth(attrs)
		link.PeerName, link.PeerNamespace = "up0", netlink.NsFd(outside.fd)
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err := errors.Join(err, netlink.LinkSetUp(lo), netlink.LinkSetUp(link)); err != nil {
			return err
		}
		for _, ip := range nodeIPs {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}, Flags: unix.IFA_F_NODAD}
			if ip.Is4() {
				addr.Flags = 0
			}
			if err := netlink.AddrAdd(lo, addr); err != nil {
				return err
			}
			all := &net.IPNet{IP: make([]byte, ip.BitLen()/8), Mask: net.CIDRMask(0, ip.BitLen())}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all}); err != nil {
				return err
			}
		}
		return nil
	})
	return n
}

// The node is how libcni executes: in the node's namespace.

func (n *node) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	var stderr bytes.Buffer
	raw := &invoke.RawExec{Stderr: &stderr}
	doErr := n.do(func() error {
		out, err = raw.ExecPlugin(ctx, filepath.Join(n.bin, filepath.Base(path)), stdin, append(environ, n.env...))
		return nil
	})
	if err != nil && stderr.Len() > 0 {
		n.t.Logf("the plugin's stderr: %s", stderr.String())
	}
	return out, errors.Join(doErr, err)
}

func (n *node) FindInPath(name string, paths []string) (string, error) {
	return invoke.FindInPath(name, paths)
}

func (n *node) Decode(b []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(b)
}

// list is the node's network.
func (n *node) list() *libcni.NetworkConfigList {
	n.t.Helper()
	conf := maps.Clone(n.conf)
	b, err := json.Marshal(map[string]any{
		"cniVersion": conf["cniVersion"], "name": conf["name"], "plugins": []any{conf},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	list, err := libcni.NetworkConfFromBytes(b)
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// pod is a namespace that the plugin connects.
type pod struct {
	*space
	rt  *libcni.RuntimeConf
	ips []netip.Addr
}

func newPod(t testing.TB, name string) *pod {
	t.Helper()
	s := newSpace(t)
	return &pod{space: s, rt: &libcni.RuntimeConf{
		ContainerID: "c-" + name, NetNS: s.path, IfName: "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", name},
			{"K8S_POD_INFRA_CONTAINER_ID", "c-" + name}, {"K8S_POD_UID", "uid-" + name},
		},
	}}
}

func (n *node) add(p *pod) (*current.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := n.cni.AddNetworkList(ctx, n.list(), p.rt)
	if err != nil {
		return nil, err
	}
	result, err := current.NewResultFromResult(r)
	if err != nil {
		return nil, err
	}
	p.ips = nil
	for _, ip := range result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		p.ips = append(p.ips, a.Unmap())
	}
	return result, nil
}

func (n *node) mustAdd(p *pod) *current.Result {
	n.t.Helper()
	result, err := n.add(p)
	if err != nil {
		n.t.Fatalf("ADD: %v", err)
	}
	return result
}

func (n *node) del(p *pod) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return n.cni.DelNetworkList(ctx, n.list(), p.rt)
}

func (n *node) mustDel(p *pod) {
	n.t.Helper()
	if err := n.del(p); err != nil {
		n.t.Fatalf("DEL: %v", err)
	}
}

func (n *node) check(p *pod) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return n.cni.CheckNetworkList(ctx, n.list(), p.rt)
}

// gc calls the plugin's GC alone, without the DELs that libcni would do first.
func (n *node) gc(valid ...*pod) error {
	attachments := []types.GCAttachment{}
	for _, p := range valid {
		attachments = append(attachments, types.GCAttachment{ContainerID: p.rt.ContainerID, IfName: p.rt.IfName})
	}
	conf := maps.Clone(n.conf)
	conf["cni.dev/valid-attachments"] = attachments
	_, err := n.raw("GC", nil, conf)
	return err
}

// raw executes the plugin with these variables, as no decent runtime would.
func (n *node) raw(command string, env []string, conf any) ([]byte, error) {
	n.t.Helper()
	stdin, isText := conf.(string)
	if !isText {
		b, err := json.Marshal(conf)
		if err != nil {
			n.t.Fatal(err)
		}
		stdin = string(b)
	}
	environ := append(os.Environ(), "CNI_COMMAND="+command, "CNI_PATH="+binDir)
	return n.ExecPlugin(context.Background(), "podfence", []byte(stdin), append(environ, env...))
}

// broken makes the node run the plugin that is killed after a step.
func (n *node) broken(step string) {
	n.bin, n.env = brokenDir, []string{asPlugin + "=1", killAfter + "=" + step}
}

func (n *node) repair() { n.bin, n.env = binDir, nil }

// code is the CNI code of an error, -1 if it has none.
func code(err error) int {
	var e *types.Error
	if !errors.As(err, &e) {
		return -1
	}
	return int(e.Code)
}

// traces are what the plugin has left, the bridge itself aside.
func (n *node) traces() []string {
	n.t.Helper()
	var all []string
	n.must(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		bridge := 0
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "pf") {
				all = append(all, "link "+l.Attrs().Name)
			}
			if l.Type() == "bridge" {
				bridge = l.Attrs().Index
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: plugin.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
			if err != nil {
				return err
			}
			for _, r := range routes {
				all = append(all, "route "+r.Dst.String())
			}
			neighbours, err := netlink.NeighList(bridge, family)
			if err != nil {
				return err
			}
			for _, neigh := range neighbours {
				if bridge > 0 && neigh.State == netlink.NUD_PERMANENT {
					all = append(all, "neighbour "+neigh.IP.String())
				}
			}
		}
		return nil
	})
	for _, addr := range n.leases() {
		all = append(all, "lease "+addr)
	}
	for _, at := range n.agent.known() {
		all = append(all, "agent "+at)
	}
	return all
}

// clean reports what is left.
func (n *node) clean(when string) {
	n.t.Helper()
	if left := n.traces(); len(left) > 0 {
		n.t.Errorf("%s, there is left: %s", when, strings.Join(left, ", "))
	}
}

// leases are the addresses that the disk has as taken.
func (n *node) leases() []string {
	n.t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.conf["dataDir"].(string), n.conf["name"].(string)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	var addrs []string
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			addrs = append(addrs, e.Name())
		}
	}
	return addrs
}
