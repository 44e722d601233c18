package node_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
)

// TestLinkNames: also a link's other names.
func TestLinkNames(t *testing.T) {
	done := make(chan error)
	var names map[string]bool
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pflink"}, PeerName: "peer"}
			if err = netlink.LinkAdd(link); err == nil {
				err = netlink.LinkAddAltName(link, "another-name-that-is-long")
			}
		}
		if err == nil {
			names, err = node.LinkNames()
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skip("a network namespace of the test's own needs root: skipped")
	} else if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", "pflink", "another-name-that-is-long"} {
		if !names[name] {
			t.Errorf("%s is not in %v", name, names)
		}
	}
	if names["pfgone"] {
		t.Error("a link that is not there")
	}
}
