package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
)

// AddSandbox makes a namespace for a pod that nothing connects yet: what a
// container runtime hands to a CNI plugin. Connected says what that has made.
func (n *Node) AddSandbox(name string) (*Host, error) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	h, err := n.lab.newHost(name, nil)
	if err != nil {
		return nil, fmt.Errorf("add sandbox %s: %w", name, err)
	}
	h.node = n
	n.hosts = append(n.hosts, h)
	return h, nil
}

// Connected says that a sandbox now has these addresses.
func (h *Host) Connected(ips []netip.Addr) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.IPs = slices.Clone(ips)
}

// RemoveSandbox removes a sandbox. The plugin's node side is the plugin's to
// remove.
func (n *Node) RemoveSandbox(name string) error {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	i := slices.IndexFunc(n.hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		return errors.New("remove sandbox " + name + ": no such sandbox")
	}
	h := n.hosts[i]
	n.hosts = slices.Delete(n.hosts, i, i+1)
	return h.close()
}

// NetNSPath is the namespace's path, for other processes of this machine too.
func (h *Host) NetNSPath() string {
	if h.ns.path != "" {
		return h.ns.path
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.NetNS())
}
