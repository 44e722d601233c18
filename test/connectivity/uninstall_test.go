package connectivity_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
)

// TestUninstall: the agents of two nodes end, and podfence is removed from both while pods
// run. Nothing of it is left, and pods that another plugin connects then, on a bridge of
// its own with the same addresses, reach each other and other nodes' pods.
func TestUninstall(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newCluster(t, settings{nodes: 2, mode: mode, more: denyVault})
			binary := filepath.Join(t.TempDir(), "podfence")
			c.must(prebuilt.Podfence(binary))
			near := c.pod("hall", 0, "near", "next")
			denied := c.pod("vault", 0, "denied")
			far := c.pod("hall", 1, "far")
			c.must(c.judge(udp(near[0].Host, near[1].Host, allowedPort, true), udp(far[0].Host, near[0].Host, allowedPort, true),
				udp(near[0].Host, denied[0].Host, allowedPort, false)))

			for i, n := range c.nodes {
				dir := c.path(n.Name)
				c.mustRefuse(binary, i, "an agent runs on this node")
				c.stop(i)
				c.markFlows(i)
				c.mustRefuse(binary, i, "pods on this node: drain it first")
				c.failAtNetwork(binary, i)
				out, err := c.uninstall(binary, i, "--disconnect-pods")
				if err != nil || !strings.Contains(out, "nothing of podfence is left on this node") {
					t.Fatalf("%v: %s", err, out)
				}
				c.expectNothing(i)
				if marked := c.markedFlows(i); marked > 0 {
					t.Errorf("%d flows of %s are marked yet", marked, n.Name)
				}
				for _, gone := range []string{"net.d/10-podfence.conflist", "bin/podfence", "bin/loopback", "leases", "attachments", "agent.sock"} {
					if _, err := os.Lstat(filepath.Join(dir, gone)); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("%s of %s: %v", gone, n.Name, err)
					}
				}
				if out, err := c.uninstall(binary, i); err != nil {
					t.Errorf("once more: %v: %s", err, out)
				}
			}
			// Cut off, and not half so: nothing of a network is left to the pods.
			for _, p := range slices.Concat(near, denied, far) {
				c.must(p.Host.Do(func() error {
					out, err := exec.Command("ip", "-o", "link").CombinedOutput()
					if err == nil && strings.Contains(string(out), "eth0") {
						err = fmt.Errorf("%s has\n%s", p.key, out)
					}
					return err
				}))
				c.must(c.nodes[p.on].RemoveSandbox(p.Host.Name))
			}

			var next [][]*lab.Host
			for i, n := range c.nodes {
				var pods []*lab.Host
				for j := range 2 {
					host, err := n.AddPod(fmt.Sprintf("next-%d-%d", i, j), lab.PodOptions{Attach: lab.Bridged, IPs: sameAddresses(i, j)})
					c.must(err)
					pods = append(pods, host)
				}
				next = append(next, pods)
			}
			c.must(c.judge(udp(next[0][0], next[0][1], allowedPort, true), tcp(next[0][1], next[0][0], allowedPort, true),
				udp(next[0][0], next[1][0], allowedPort, true), tcp(next[1][1], next[0][1], allowedPort, true)))
		})
	}
}

const denyVault = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: vault, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`

// sameAddresses are some that podfence had given out on the node.
func sameAddresses(i, j int) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{10, 244, byte(i + 1), byte(2 + j)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::%x", i+1, 2+j)),
	}
}

// uninstall runs podfence's on a node, with the node's folders.
func (c *cluster) uninstall(binary string, i int, more ...string) (string, error) {
	dir := c.path(c.nodes[i].Name)
	args := append([]string{
		"uninstall", "--cni-conf-dir", dir + "/net.d", "--cni-bin-dir", dir + "/bin", "--cni-data-dir", dir + "/leases",
		"--cni-state", dir + "/attachments", "--cni-socket", dir + "/agent.sock",
	}, more...)
	var out bytes.Buffer
	err := c.nodes[i].Do(func() error {
		cmd := exec.Command(binary, args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd.Run()
	})
	return out.String(), err
}

// mustRefuse has it end with 2, for a reason, and change nothing of what it has seen.
func (c *cluster) mustRefuse(binary string, i int, reason string) {
	c.t.Helper()
	before := c.kernelState(i)
	out, err := c.uninstall(binary, i)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(out, reason) {
		c.t.Fatalf("want a refusal because %s: %v: %s", reason, err, out)
	}
	if after := c.kernelState(i); after != before {
		c.t.Fatalf("refused, and yet there was\n%s\nand there is\n%s", before, after)
	}
}

// failAtNetwork has it end where a link cannot go, and expects the rules to be there: they
// must not go before all links.
func (c *cluster) failAtNetwork(binary string, i int) {
	c.t.Helper()
	ip := func(args string) {
		c.must(c.nodes[i].Do(func() error { return exec.Command("ip", strings.Fields(args)...).Run() }))
	}
	ip("link add foreign0 type veth peer name foreign1")
	ip("link set foreign0 master podfence0")
	out, err := c.uninstall(binary, i, "--disconnect-pods")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, "foreign0") {
		c.t.Errorf("with another's port in the bridge: %v: %s", err, out)
	}
	if state := c.kernelState(i); !strings.Contains(state, "table inet podfence") || !strings.Contains(state, "table bridge podfence") {
		c.t.Errorf("the tables have gone before the links:\n%s", state)
	}
	ip("link del foreign0")
}

// theMark is the agent's default.
const theMark = 1 << 29

// markFlows has all flows of a node revoked.
func (c *cluster) markFlows(i int) {
	c.t.Helper()
	flows, err := kernel.OpenFlows(kernel.Options{NetNS: c.nodes[i].NetNS()}, theMark)
	c.must(err)
	_, _, err = flows.Revoke(func(nft.HookPoint, policy.Packet) bool { return false })
	c.must(errors.Join(err, flows.Close()))
	if c.markedFlows(i) == 0 {
		c.t.Fatalf("%s has no flow to mark", c.nodes[i].Name)
	}
}

func (c *cluster) markedFlows(i int) (count int) {
	c.t.Helper()
	c.must(c.nodes[i].Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, flow := range flows {
				if flow.Mark&theMark != 0 {
					count++
				}
			}
		}
		return nil
	}))
	return count
}

// kernelState is what podfence may have made on a node: tables, links, rules and routes.
func (c *cluster) kernelState(i int) string {
	c.t.Helper()
	var all strings.Builder
	c.must(c.nodes[i].Do(func() error {
		for _, command := range []string{
			"nft -s list tables", "ip -o -br link", "ip -4 rule", "ip -6 rule", "ip -4 route show table all proto 112", "ip -6 route show table all proto 112",
		} {
			words := strings.Fields(command)
			out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", command, err, out)
			}
			fmt.Fprintf(&all, "%s:\n%s", command, out)
		}
		return nil
	}))
	return all.String()
}

// expectNothing fails the test for what is left.
func (c *cluster) expectNothing(i int) {
	c.t.Helper()
	state := c.kernelState(i)
	for _, trace := range []string{"podfence", "pf", "28774", "unreachable", "10.244.", "fd00:10:244:"} {
		if strings.Contains(strings.ReplaceAll(state, "proto 112", ""), trace) {
			c.t.Errorf("%q is left on %s:\n%s", trace, c.nodes[i].Name, state)
		}
	}
}
