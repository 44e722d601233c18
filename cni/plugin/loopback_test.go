package plugin_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"
)

// TestLoopback runs the plugin under its other name, as containerd does.
func TestLoopback(t *testing.T) {
	p := newPod(t, "a")
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(binDir, "podfence"), filepath.Join(dir, "loopback")); err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{dir}, filepath.Join(dir, "cache"), nil)
	list, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion": "0.3.1", "name": "cni-loopback", "plugins": [{"type": "loopback"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	rt := *p.rt
	rt.IfName = "lo"
	lo := func() (up bool) {
		p.must(func() error {
			link, err := netlink.LinkByName("lo")
			up = err == nil && link.Attrs().Flags&net.FlagUp != 0
			return err
		})
		return up
	}
	p.must(func() error {
		link, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	})
	result, err := cni.AddNetworkList(context.Background(), list, &rt)
	if err != nil {
		t.Fatal(err)
	}
	if result.Version() != "0.3.1" || !lo() {
		t.Errorf("version %s, lo up: %t", result.Version(), lo())
	}
	// Twice, and DEL of what is gone: nothing to complain of.
	if _, err := cni.AddNetworkList(context.Background(), list, &rt); err != nil {
		t.Error(err)
	}
	if err := cni.DelNetworkList(context.Background(), list, &rt); err != nil {
		t.Error(err)
	}
	rt.NetNS = filepath.Join(dir, "none")
	if err := cni.DelNetworkList(context.Background(), list, &rt); err != nil {
		t.Error(err)
	}
	if _, err := cni.AddNetworkList(context.Background(), list, &rt); err == nil {
		t.Error("ADD without a network namespace: no error")
	}
}
