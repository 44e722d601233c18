package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// BridgeNetfilterIsOn reports, without a change, whether what a bridge passes between two of its ports goes through
// the forward hook, where policy is judged. The error says that it does not, and what is to be done.
func BridgeNetfilterIsOn(procSys string) error {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		value, err := os.ReadFile(filepath.Join(procSys, "net/bridge", name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return errNoBridgeNetfilter
		case err != nil:
			return fmt.Errorf("sysctl net.bridge.%s cannot be read: %w", name, err)
		case strings.TrimSpace(string(value)) != "1":
			return fmt.Errorf("net.bridge.%s is %s, so that traffic between pods on one bridge is not policed: sysctl -w net.bridge.%s=1", name, strings.TrimSpace(string(value)), name)
		}
	}
	return nil
}

var errNoBridgeNetfilter = errors.New("the kernel module br_netfilter is not loaded (modprobe br_netfilter): traffic between pods on one bridge cannot be policed")

// BridgeNetfilter has packets that a bridge passes between two of its ports go
// through the forward hook, where policy is judged: another plugin's bridge may
// connect pods of this node without it. It turns the settings on where they are
// off, so calling it again and again keeps them on. The error says what is to
// be done.
func BridgeNetfilter(procSys string) error {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		path := filepath.Join(procSys, "net/bridge", name)
		value, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return errNoBridgeNetfilter
		}
		if err == nil && strings.TrimSpace(string(value)) == "1" {
			continue
		}
		if err == nil {
			err = os.WriteFile(path, []byte("1"), 0)
		}
		if err != nil {
			return fmt.Errorf("sysctl net.bridge.%s cannot be set to 1, so traffic between pods on one bridge cannot be policed: %w", name, err)
		}
	}
	return nil
}
