package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
)

// leaseSettles is for how long a lease needs no link: ADD makes that next.
const leaseSettles = time.Minute

// endLost frees what containers have whose link is gone, and so their network namespace
// or at least all of the node in it: their DEL was lost, and not every runtime calls GC.
// An ADD or DEL of such a container that is under way is not disturbed: ADD looks whether it
// still has its leases when it has made the link, and DEL clears what leads to an address under
// the lock.
func (l *leases) endLost(host *netlink.Handle, bridge string) error {
	links, err := linkNames()
	if err != nil {
		return err
	}
	lost := map[attachment]bool{}
	for _, lease := range l.all {
		if links[LinkName(lease.owner.containerID, lease.owner.ifName)] {
			continue
		}
		info, err := os.Stat(filepath.Join(l.dir, lease.addr.String()))
		if err != nil {
			return err
		}
		if time.Since(info.ModTime()) > leaseSettles {
			lost[lease.owner] = true
		}
	}
	if err := spareRenamed(host, lost); err != nil {
		return err
	}
	var errs []error
	for owner := range lost {
		errs = append(errs, l.end(host, bridge, owner))
	}
	return errors.Join(errs...)
}

// spareRenamed takes out of lost the attachments whose link somebody has renamed: its MAC tells whose
// it is.
// One that still has its name as an alternative one, deleteLink finds and leaves. There are
// few to ask about, mostly none.
func spareRenamed(host *netlink.Handle, lost map[attachment]bool) error {
	if len(lost) == 0 {
		return nil
	}
	links, err := dump(host.LinkList)
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	macs := map[string]bool{}
	for _, link := range links {
		macs[link.Attrs().HardwareAddr.String()] = true
	}
	maps.DeleteFunc(lost, func(owner attachment, _ bool) bool {
		return macs[hostMAC(LinkName(owner.containerID, owner.ifName)).String()]
	})
	return nil
}

// end removes all that a container has here; its leases last, and only if nothing else
// is left.
func (l *leases) end(host *netlink.Handle, bridge string, owner attachment) error {
	addrs := l.of(owner)
	if err := deleteLink(host, LinkName(owner.containerID, owner.ifName)); err != nil {
		return err
	}
	if err := forget(host, bridge, addrs); err != nil {
		return err
	}
	return l.release(owner, addrs)
}

// stillHas returns an error if the addresses were taken away, because the container was taken for a
// lost one.
func stillHas(c *Config, at attachment, addrs []netip.Addr) error {
	l, err := lockLeases(c)
	if err != nil {
		return err
	}
	has, err := l.holds(at, addrs)
	if err := errors.Join(err, l.close()); err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	if !has {
		return fmt.Errorf("the addresses of %s were freed before its link was there; it took more than %v", at, leaseSettles)
	}
	return nil
}

// linkNames are the names of the node's links: of the calling thread's namespace, see
// proc_pid_net(5). Each ADD asks, and mostly needs no more than the names: a listing by
// netlink, which has their MACs, is kilobytes of each link to parse.
func linkNames() (map[string]bool, error) {
	text, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return nil, fmt.Errorf("links: %w", err)
	}
	names := map[string]bool{}
	for line := range bytes.Lines(text) {
		if name, _, isLink := bytes.Cut(line, []byte(":")); isLink {
			names[string(bytes.TrimSpace(name))] = true
		}
	}
	return names, nil
}
