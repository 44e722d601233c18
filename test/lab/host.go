package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one namespace of a Lab: a node, a pod or a host outside the cluster.
type Host struct {
	// Name is unique in the lab.
	Name string
	// IPs are the host's addresses, of either family or both.
	IPs []netip.Addr
	// Link is the node's side of the host's veth pair; the host's own is eth0.
	// A node has none.
	Link string
	// MAC is eth0's address. A node has none.
	MAC net.HardwareAddr

	lab    *Lab
	node   *Node
	isNode bool
	eth0   int // the link's index
	attach Attach
	// gateway is the hardware address of the node's side of eth0.
	gateway net.HardwareAddr

	// mu guards what follows. The sockets stay open until the host closes:
	// opening them anew for each batch would cost more than the batch.
	mu      sync.Mutex
	closed  bool
	ns      namespace
	senders map[int]*socket
	taps    map[tapKind]*socket
	servers map[*Server]struct{}
}

// newHost makes a namespace with its loopback link up.
func (l *Lab) newHost(name string, addrs []netip.Addr) (*Host, error) {
	if err := l.newcomer(name, addrs); err != nil {
		return nil, err
	}
	named := ""
	if l.options.Prefix != "" {
		named = l.options.Prefix + name
	}
	ns, err := newNamespace(named)
	if err != nil {
		return nil, err
	}
	h := &Host{
		Name: name, IPs: append([]netip.Addr(nil), addrs...), lab: l, ns: ns,
		senders: map[int]*socket{}, taps: map[tapKind]*socket{}, servers: map[*Server]struct{}{},
	}
	err = h.Do(func() error {
		for _, s := range quiet {
			if err := writeSysctl(s, "0"); err != nil {
				return err
			}
		}
		return upLoopback()
	})
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// quiet are the settings that are off in every namespace. The IPv4 ones would
// otherwise be copied from the machine's own namespace.
var quiet = []string{
	// Addresses are usable at once: no duplicate address detection.
	"net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad",
	// Spoofed and asymmetric packets are for the ruleset to judge.
	"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter",
	"net/ipv4/conf/all/send_redirects", "net/ipv4/conf/default/send_redirects",
	"net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/default/accept_redirects",
	"net/ipv6/conf/all/accept_redirects", "net/ipv6/conf/default/accept_redirects",
	"net/ipv6/conf/all/accept_ra", "net/ipv6/conf/default/accept_ra",
	"net/ipv6/conf/all/router_solicitations", "net/ipv6/conf/default/router_solicitations",
}

func upLoopback() error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	if err := handle.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set link lo up: %w", err)
	}
	return nil
}

// NetNS is the namespace's file descriptor, open until the host is removed.
func (h *Host) NetNS() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ns.fd
}

// IP returns the host's first address of the given one's family, or the zero
// Addr.
func (h *Host) IP(like netip.Addr) netip.Addr {
	for _, a := range h.IPs {
		if a.Is4() == like.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// Attach is how the host is attached to its node.
func (h *Host) Attach() Attach { return h.attach }

// Gateway is the hardware address of the node's side of eth0, by which the host's packets
// leave. A node has none.
func (h *Host) Gateway() net.HardwareAddr { return h.gateway }

// Node returns the node that the host is attached to; a node is its own.
func (h *Host) Node() *Node { return h.node }

func (h *Host) String() string { return h.Name }

// Do runs f on a thread inside the host's namespace and returns f's error.
// Sockets that f opens stay in the namespace; goroutines that it starts do
// not run in it.
func (h *Host) Do(f func() error) error {
	h.mu.Lock()
	fd := -1
	if !h.closed {
		// A copy of its own lets the host be removed while f runs.
		var err error
		if fd, err = unix.FcntlInt(uintptr(h.ns.fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			h.mu.Unlock()
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	h.mu.Unlock()
	if fd < 0 {
		return fmt.Errorf("host %s: %w", h.Name, ErrClosed)
	}
	defer unix.Close(fd)
	ns := namespace{fd: fd}
	return ns.inside(f)
}

// SetSysctl sets a kernel setting of the host's namespace, such as
// net/ipv4/conf/all/rp_filter.
func (h *Host) SetSysctl(name, value string) error {
	if err := h.Do(func() error { return writeSysctl(name, value) }); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

func writeSysctl(name, value string) error {
	// Without O_CREATE, a setting that this kernel lacks is ENOENT.
	file, err := os.OpenFile(filepath.Join("/proc/sys", name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("sysctl: %w", err)
	}
	_, err = file.WriteString(value)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// close ends the host's servers and sockets and lets go of its namespace.
func (h *Host) close() error {
	h.mu.Lock()
	h.closed = true
	servers := h.servers
	h.servers = nil
	h.mu.Unlock()
	for s := range servers {
		s.stop()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, s := range h.senders {
		errs = append(errs, s.close())
	}
	for _, s := range h.taps {
		errs = append(errs, s.close())
	}
	h.senders, h.taps = nil, nil
	errs = append(errs, h.ns.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close host %s: %w", h.Name, err)
	}
	return nil
}
