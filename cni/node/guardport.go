package node

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// LinkGroup is the group of pods' ports, by which the bridge's table knows them. The plugin makes
// ports in this group; older plugins did not.
const LinkGroup = 28774

// GuardPort puts a pod's port into LinkGroup. It must be called before the port is set up.
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
	if link.Attrs().Group == LinkGroup {
		return nil
	}
	// The kernel may be deleting it at this moment.
	if err := n.handle.LinkSetGroup(link, LinkGroup); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("link %s: put into group %d: %w", name, LinkGroup, err)
	}
	return nil
}

// GuardPorts puts all pods' ports into LinkGroup, as each Reconcile does.
func (n *Network) GuardPorts() error {
	return n.look(func(r *round) error {
		r.guardPorts()
		return errors.Join(r.errs...)
	})
}

// guardPorts puts all ports back into LinkGroup, also those of pods of which the agent has not been
// told: the group is what closes them.
func (r *round) guardPorts() {
	for _, link := range r.podLinks() {
		if link.Attrs().Group == LinkGroup {
			continue
		}
		// The kernel may be deleting it at this moment.
		if err := r.LinkSetGroup(link, LinkGroup); !errors.Is(err, unix.ENODEV) {
			r.did(err, "put link %s into its group", link.Attrs().Name)
		}
	}
}
