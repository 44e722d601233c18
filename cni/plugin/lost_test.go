package plugin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/onsi/gomega"
	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/plugin"
)

// lease is the file of an address.
func (n *node) lease(ip fmt.Stringer) string {
	return filepath.Join(n.conf["dataDir"].(string), n.conf["name"].(string), ip.String())
}

// age has a pod's leases be an hour old.
func (n *node) age(p *pod) {
	n.t.Helper()
	for _, ip := range n.leases() {
		path := filepath.Join(n.conf["dataDir"].(string), n.conf["name"].(string), ip)
		text, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(text), p.rt.ContainerID+"\r\n") {
			hourAgo := time.Now().Add(-time.Hour)
			err = os.Chtimes(path, hourAgo, hourAgo)
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
}

// vanish ends a pod as a runtime that has lost its state does: without a DEL.
func (n *node) vanish(p *pod) {
	n.t.Helper()
	p.close()
	gomega.NewWithT(n.t).Eventually(func() (err error) {
		n.must(func() error {
			_, err = netlink.LinkByName(plugin.LinkName(p.rt.ContainerID, p.rt.IfName))
			return nil
		})
		return err
	}, "1m").Should(gomega.HaveOccurred(), "the link goes with the namespace")
}

// TestLostContainers: a range that is full of addresses of containers which are not there
// any more is not full; all that led to them goes, and what is there stays.
func TestLostContainers(t *testing.T) {
	n := newNode(t, map[string]any{"podCIDRs": []string{"10.244.1.0/29", "fd00:10:244:1::/64"}})
	var pods []*pod
	for i := range 5 {
		p := newPod(t, fmt.Sprintf("p%d", i))
		n.mustAdd(p)
		pods = append(pods, p)
	}
	more, another := newPod(t, "more"), newPod(t, "another")
	stays, fresh := pods[0], pods[1]
	for _, p := range pods {
		if p != fresh {
			n.age(p)
		}
	}
	if _, err := n.add(more); code(err) != int(plugin.CodeExhausted) {
		t.Fatalf("with all pods there: code %d, %v", code(err), err)
	}
	for _, p := range pods[1:] {
		n.vanish(p)
	}
	n.mustAdd(more)
	n.mustAdd(another)
	for _, trace := range n.traces() {
		for _, p := range pods[2:] {
			for _, ip := range p.ips {
				// The new pods may have been given one of these.
				again := slices.Contains(more.ips, ip) || slices.Contains(another.ips, ip)
				if strings.Contains(trace+" ", ip.String()+" ") && !again || strings.Contains(trace+"/", " "+ip.String()+"/") && !again {
					t.Errorf("%s is left of %s", trace, p.rt.ContainerID)
				}
			}
		}
	}
	// A lease without a link may be a moment old: its ADD goes on.
	for _, p := range []*pod{stays, fresh, more, another} {
		for _, ip := range p.ips {
			if text, err := os.ReadFile(n.lease(ip)); err != nil || !strings.HasPrefix(string(text), p.rt.ContainerID+"\r\n") {
				t.Errorf("address %s of %s: %q, %v", ip, p.rt.ContainerID, text, err)
			}
		}
	}
	for _, p := range []*pod{stays, more, another} {
		if err := n.check(p); err != nil {
			t.Errorf("CHECK %s: %v", p.rt.ContainerID, err)
		}
	}
	// The DELs may come after all.
	for _, p := range pods[1:] {
		n.mustDel(p)
	}
	if err := n.check(more); err != nil {
		t.Errorf("after late DELs: %v", err)
	}
}

// TestRenamedLink: a container whose link somebody has renamed runs, and keeps its address.
func TestRenamedLink(t *testing.T) {
	for _, by := range []string{"MAC", "alternative name"} {
		t.Run(by, func(t *testing.T) {
			n := newNode(t, map[string]any{"podCIDRs": []string{"10.244.1.0/30"}}) // one address
			there, more := newPod(t, "there"), newPod(t, "more")
			n.mustAdd(there)
			n.age(there)
			n.must(func() error {
				name := plugin.LinkName(there.rt.ContainerID, there.rt.IfName)
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				steps := []func() error{
					func() error { return netlink.LinkSetDown(link) },
					func() error { return netlink.LinkSetName(link, "renamed") },
				}
				if by == "alternative name" {
					steps = append(steps,
						func() error { return netlink.LinkSetHardwareAddr(link, []byte{2, 0, 0, 0, 0, 1}) },
						func() error { return netlink.LinkAddAltName(link, name) })
				}
				for _, step := range append(steps, func() error { return netlink.LinkSetUp(link) }) {
					if err := step(); err != nil {
						return err
					}
				}
				return nil
			})
			if _, err := n.add(more); code(err) != int(plugin.CodeExhausted) {
				t.Errorf("its address was given to another: %v", err)
			}
			if leases := n.leases(); len(leases) != 1 || leases[0] != there.ips[0].String() {
				t.Errorf("leases %v", leases)
			}
			there.close()
			gomega.NewWithT(t).Eventually(func() error { _, err := n.add(more); return err }, "1m").Should(gomega.Succeed(), "it has gone with its namespace")
		})
	}
}

// TestLeasesEndWithTheBoot: what is noted of an earlier one is nobody's.
func TestLeasesEndWithTheBoot(t *testing.T) {
	n := newNode(t, map[string]any{"podCIDRs": []string{"10.244.1.0/30"}}) // one address
	before, after := newPod(t, "before"), newPod(t, "after")
	n.mustAdd(before)
	boot := filepath.Join(n.conf["dataDir"].(string), n.conf["name"].(string), "boot")
	// Of an older podfence, there is no word of the boot, and the pod may be there.
	if err := os.Remove(boot); err != nil {
		t.Fatal(err)
	}
	if _, err := n.add(after); code(err) != int(plugin.CodeExhausted) {
		t.Errorf("a pod's address was given to another: %v", err)
	}
	n.vanish(before)
	if _, err := n.add(after); code(err) != int(plugin.CodeExhausted) {
		t.Errorf("a lease of a moment ago is free: %v", err)
	}
	if err := os.WriteFile(boot, []byte("8c7e2d5a-0000-4000-8000-000000000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.mustAdd(after)
	n.mustDel(before)
	if err := n.check(after); err != nil {
		t.Error(err)
	}
	if leases := n.leases(); len(leases) != 1 {
		t.Errorf("leases %v", leases)
	}
}

// TestTakenMeanwhile: an ADD or a DEL that was held up for so long between two steps that
// its container was taken for lost takes nothing from the one that has its address.
func TestTakenMeanwhile(t *testing.T) {
	for _, c := range []struct {
		command, step, message string
	}{
		{"ADD", "add leases", "were freed before its link was there"},
		{"DEL", "del link", ""},
	} {
		t.Run(c.command, func(t *testing.T) {
			n := newNode(t, map[string]any{"podCIDRs": []string{"10.244.1.0/30"}})
			slow, quick := newPod(t, "slow"), newPod(t, "quick")
			held := *n // the node, but that its plugin waits
			held.cni = libcni.NewCNIConfigWithCacheDir([]string{binDir}, t.TempDir(), &held)
			run := func() error { _, err := held.add(slow); return err }
			if c.command == "DEL" {
				n.mustAdd(slow)
				run = func() error { return held.del(slow) }
			}
			goOn := filepath.Join(t.TempDir(), "go on")
			if err := os.WriteFile(goOn, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			held.bin, held.env = brokenDir, []string{asPlugin + "=1", pauseAfter + "=" + c.step, pauseFile + "=" + goOn}
			ended := make(chan error, 1)
			go func() { ended <- run() }()
			gomega.NewWithT(t).Eventually(func() error { _, err := os.Stat(goOn); return err }, "1m").Should(gomega.MatchError(os.ErrNotExist))
			n.age(slow)
			n.mustAdd(quick)
			if err := os.WriteFile(goOn, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; (err == nil) != (c.message == "") || err != nil && !strings.Contains(err.Error(), c.message) {
				t.Errorf("the slow %s: %v", c.command, err)
			}
			if err := n.check(quick); err != nil {
				t.Errorf("CHECK of the other: %v", err)
			}
			quick.serve(quick.ips[0], 80)
			n.reaches(quick.ips[0])
			if known := n.agent.known(); !slices.Equal(known, []string{"c-quick/eth0"}) {
				t.Errorf("the agent knows %v", known)
			}
		})
	}
}
