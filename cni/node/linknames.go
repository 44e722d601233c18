package node

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkNames are the names of the links in the network namespace of the calling thread,
// other names that they go by included.
func LinkNames() (map[string]bool, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("connect to rtnetlink: %w", err)
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		// Half a listing (NLM_F_DUMP_INTR) is none: what it lacks may be there.
		return nil, fmt.Errorf("links: %w", err)
	}
	names := map[string]bool{}
	for _, link := range links {
		names[link.Attrs().Name] = true
		for _, other := range link.Attrs().AltNames {
			names[other] = true
		}
	}
	return names, nil
}
