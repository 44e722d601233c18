package node

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestLinksThere: also by a link's other names, and a renamed one by its MAC.
func TestLinksThere(t *testing.T) {
	add := func(name string, as netlink.LinkAttrs) error {
		as.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: as, PeerName: name + "-peer"})
	}
	var there map[string]bool
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = errors.Join(add("pflink", netlink.LinkAttrs{}), add("renamed", netlink.LinkAttrs{HardwareAddr: portMAC("pfother")}),
				add("cali1", netlink.LinkAttrs{}))
		}
		if err == nil {
			link, _ := netlink.LinkByName("cali1")
			err = netlink.LinkAddAltName(link, "another-name-that-is-long")
		}
		if err == nil {
			there, err = LinksThere([]string{"lo", "pflink", "pfother", "another-name-that-is-long", "pfgone"})
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skip("a network namespace of the test's own needs root: skipped")
	} else if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(there)); !slices.Equal(got, []string{"another-name-that-is-long", "lo", "pflink", "pfother"}) {
		t.Errorf("%v", got)
	}
}

// TestLinksThereAgain: a listing that a change has interrupted is asked for anew.
func TestLinksThereAgain(t *testing.T) {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "pflink"}}
	for interrupted, whole := range map[int]bool{3: true, 1000: false} {
		there, err := linksThere([]string{"pflink"}, func() ([]netlink.Link, error) {
			if interrupted--; interrupted >= 0 {
				return nil, netlink.ErrDumpInterrupted
			}
			return []netlink.Link{link}, nil
		})
		if (err == nil) != whole || there["pflink"] != whole {
			t.Errorf("%v, %v", there, err)
		}
	}
}
