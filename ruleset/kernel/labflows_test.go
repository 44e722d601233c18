package kernel_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

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

// nft carries out commands in a node's namespace.
func nft(t *testing.T, node *lab.Node, commands string) {
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
