package node

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ConnectedPods are the node's ends of pods' links that the plugin has made, in the bridge
// or not. Each is there as long as its pod's network namespace.
func (n *Network) ConnectedPods() (names []string, err error) {
	err = n.look(func(r *round) error {
		for _, link := range r.podLinks() {
			names = append(names, link.Attrs().Name)
		}
		return nil
	})
	return names, err
}

// DisconnectPods deletes the links of ConnectedPods, and returns how many. The pods keep
// nothing but their lo.
func (n *Network) DisconnectPods() (count int, err error) {
	err = n.look(func(r *round) error {
		for _, link := range r.podLinks() {
			// It may be going by itself, with its pod's namespace.
			if err := r.LinkDel(link); !errors.Is(err, unix.ENODEV) {
				r.did(err, "remove link %s", link.Attrs().Name)
			}
		}
		count = len(r.changes)
		return errors.Join(r.errs...)
	})
	return count, err
}

// podLinks are the node's ends of pods' links that the plugin has made.
func (r *round) podLinks() (links []netlink.Link) {
	for _, link := range r.links {
		if madeLink(link) {
			links = append(links, link)
		}
	}
	return links
}
