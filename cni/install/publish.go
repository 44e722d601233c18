package install

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
)

// Places are where a container runtime looks, and where the plugin comes from.
type Places struct {
	// ConfDir is for configurations, BinDir for plugins.
	ConfDir, BinDir string
	// ConfName is the configuration's file; empty: ConflistName.
	ConfName string
	// Plugin is the plugin's binary.
	Plugin string

	portMap portMapAnswer
}

// portMapAttempts is how many times in a row a portmap plugin is asked in vain before it is left
// out: a plugin that cannot say its version would fail pods' ADDs as well.
const portMapAttempts = 3

// Publish installs the plugin, and then the configuration that has it called,
// with the portmap plugin chained as HostPorts says. A loopback plugin is added if
// there is none. What is there already is not written again.
func (p *Places) Publish(c Conf) error {
	if _, err := Binary(p.Plugin, p.BinDir); err != nil {
		return err
	}
	if _, err := InstallLoopback(p.Plugin, p.BinDir); err != nil {
		return err
	}
	name := cmp.Or(p.ConfName, ConflistName)
	ports, err := p.hostPorts()
	if err != nil && p.portMap.failures < portMapAttempts {
		// If portmap were left out for a moment, pods that start now would lack their hostPorts,
		// and those of pods that end now would stay in place.
		if _, is := os.Stat(filepath.Join(p.ConfDir, name)); is == nil {
			return fmt.Errorf("network configuration %s stays as it is: %s", name, ports.Without)
		}
	}
	conflist, err := Conflist(c, ports)
	if err != nil {
		return err
	}
	if _, err := WriteConflist(p.ConfDir, name, conflist); err != nil {
		return err
	}
	_, err = removeOwn(p.ConfDir, name)
	return err
}
