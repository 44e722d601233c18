package node

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinksThere are those of the named links that are in the network namespace of the calling
// thread: by their name, by another that they go by, or, where somebody has renamed what
// podfence's plugin made, by the MAC that the name gave it.
func LinksThere(names []string) (map[string]bool, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("connect to rtnetlink: %w", err)
	}
	defer handle.Close()
	return linksThere(names, handle.LinkList)
}

func linksThere(names []string, list func() ([]netlink.Link, error)) (map[string]bool, error) {
	// Half a listing does not count: what it lacks may exist.
	links, err := dump("links", list)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{} // names and MACs: no name has a colon (dev_valid_name)
	for _, link := range links {
		attrs := link.Attrs()
		known[attrs.Name], known[attrs.HardwareAddr.String()] = true, true
		for _, other := range attrs.AltNames {
			known[other] = true
		}
	}
	present := map[string]bool{}
	for _, name := range names {
		if known[name] || known[portMAC(name).String()] {
			present[name] = true
		}
	}
	return present, nil
}
