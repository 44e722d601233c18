package node

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkGroup is the group of pods' ports, by which the bridge's table knows them. The
// plugin makes them in it; an older one has not.
const LinkGroup = 28774

// GuardPort puts a pod's port into the group of those. It must be called before the port
// is set up.
func (n *Network) GuardPort(name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle == nil {
		return ErrClosed
	}
	link, err := n.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return n.guardPort(link)
}

// GuardPorts puts all ports that there are into the group.
func (n *Network) GuardPorts() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle == nil {
		return ErrClosed
	}
	links, err := dump("links", n.handle.LinkList)
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		attrs := link.Attrs()
		if link.Type() == "veth" && bytes.Equal(attrs.HardwareAddr, derivedMAC("link "+attrs.Name)) {
			errs = append(errs, n.guardPort(link))
		}
	}
	return errors.Join(errs...)
}

func (n *Network) guardPort(link netlink.Link) error {
	if link.Attrs().Group == LinkGroup {
		return nil
	}
	// The kernel may be deleting it at this moment.
	if err := n.handle.LinkSetGroup(link, LinkGroup); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("link %s: put into group %d: %w", link.Attrs().Name, LinkGroup, err)
	}
	return nil
}
