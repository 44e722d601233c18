package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/test/lab"
)

// TestBridgeNetfilter: the settings are turned on, and on again, in the
// namespace that asks.
func TestBridgeNetfilter(t *testing.T) {
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n, err := l.AddNode("node")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, name := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
			if err := n.SetSysctl(name, "0"); err != nil {
				t.Skipf("skipped: this kernel has no br_netfilter: %v", err)
			}
		}
		err := n.Do(func() error {
			if err := node.BridgeNetfilter("/proc/sys"); err != nil {
				return err
			}
			for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
				if text, err := os.ReadFile("/proc/sys/net/bridge/" + name); err != nil || strings.TrimSpace(string(text)) != "1" {
					t.Errorf("%s is %q (%v)", name, text, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestBridgeNetfilterIsOn: that a setting is off, or not there, is said, and nothing is changed.
func TestBridgeNetfilterIsOn(t *testing.T) {
	dir := t.TempDir()
	if err := node.BridgeNetfilterIsOn(dir); err == nil || !strings.Contains(err.Error(), "modprobe br_netfilter") {
		t.Errorf("without the module: %v", err)
	}
	bridge := filepath.Join(dir, "net/bridge")
	if err := os.MkdirAll(bridge, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bridge, name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("bridge-nf-call-iptables", "1\n")
	write("bridge-nf-call-ip6tables", "0\n")
	if err := node.BridgeNetfilterIsOn(dir); err == nil || !strings.Contains(err.Error(), "net.bridge.bridge-nf-call-ip6tables is 0") {
		t.Errorf("off for IPv6: %v", err)
	}
	if value, err := os.ReadFile(filepath.Join(bridge, "bridge-nf-call-ip6tables")); err != nil || string(value) != "0\n" {
		t.Errorf("it has been changed: %q, %v", value, err)
	}
	write("bridge-nf-call-ip6tables", "1\n")
	if err := node.BridgeNetfilterIsOn(dir); err != nil {
		t.Errorf("on: %v", err)
	}
}

// TestBridgeNetfilterCannot: what is missing is said.
func TestBridgeNetfilterCannot(t *testing.T) {
	dir := t.TempDir()
	if err := node.BridgeNetfilter(dir); err == nil || !strings.Contains(err.Error(), "modprobe br_netfilter") {
		t.Errorf("without the module: %v", err)
	}
	bridge := filepath.Join(dir, "net/bridge")
	// A folder in the setting's place can be neither read nor written.
	if err := os.MkdirAll(filepath.Join(bridge, "bridge-nf-call-iptables"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := node.BridgeNetfilter(dir); err == nil || !strings.Contains(err.Error(), "bridge-nf-call-iptables cannot be set to 1") {
		t.Errorf("with a setting that cannot be written: %v", err)
	}
}
