package kernel_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// newLab makes a lab, until the test ends; without root the test is skipped.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l := check.Value(lab.New(lab.Options{}))(t)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// flowNode is a node of a lab, with what judges its flows.
type flowNode struct {
	*lab.Node
	t     *testing.T
	conn  *kernel.Conn
	flows *kernel.Flows
}

// newFlowNode makes one, whose revoked flows have the bit in their marks, and puts the
// table in force that does that.
func newFlowNode(t *testing.T, bit uint32) *flowNode {
	t.Helper()
	n := &flowNode{t: t}
	n.Node = check.Value(newLab(t).AddNode("node", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")))(t)
	n.conn = check.Value(kernel.Open(kernel.Options{NetNS: n.NetNS()}))(t)
	t.Cleanup(func() { _ = n.conn.Close() })
	n.flows = check.Value(kernel.OpenFlows(kernel.Options{NetNS: n.NetNS()}, bit))(t)
	t.Cleanup(func() { _ = n.flows.Close() })
	check.NoError(t, n.conn.Apply(ruleset.Build(policy.NewModel("node").Intent(), ruleset.Options{RevokedMark: bit}).Replacement()))
	return n
}

// pod makes a pod at 10.0.0.LAST and fd00::LAST.
func (n *flowNode) pod(name string, last int) *lab.Host {
	n.t.Helper()
	return check.Value(n.AddPod(name, lab.PodOptions{IPs: []netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", last)), netip.MustParseAddr(fmt.Sprintf("fd00::%d", last)),
	}}))(n.t)
}

// runNFT carries out commands in a node's namespace.
func runNFT(t testing.TB, node *lab.Node, commands string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.ReplaceAll(commands, "; add ", "\nadd ")), &out, &out
	if err := node.Do(cmd.Start); err != nil {
		t.Fatalf("these tests need nft, of the Debian package nftables: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v: %s", commands, err, out.String())
	}
}

// conntrackMarks counts a node's flows by their marks.
func conntrackMarks(t *testing.T, node *lab.Node) map[uint32]int {
	t.Helper()
	marks := map[uint32]int{}
	err := node.Do(func() error {
		for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return fmt.Errorf("list flows: %w", err)
			}
			for _, flow := range flows {
				if flow.Forward.Protocol == 6 || flow.Forward.Protocol == 17 {
					marks[flow.Mark]++
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return marks
}
