package install

import "cmp"

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
	conflist, err := Conflist(c, p.HostPorts())
	if err != nil {
		return err
	}
	name := cmp.Or(p.ConfName, ConflistName)
	if _, err := WriteConflist(p.ConfDir, name, conflist); err != nil {
		return err
	}
	_, err = removeOwn(p.ConfDir, name)
	return err
}
