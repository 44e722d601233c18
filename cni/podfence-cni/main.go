// Command podfence-cni is the CNI plugin, which the container runtime executes
// for every pod that starts or ends. It links in as little as possible: what it
// does for a pod takes a few milliseconds, and so should starting it.
package main

import (
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/podfence/podfence/cni/plugin"
)

// version is set when the binary is built for release.
var version = "dev"

func main() {
	// A runtime asks for a plugin by its file's name. On a node without the
	// loopback plugin that is the name of a copy of this program.
	if filepath.Base(os.Args[0]) == plugin.LoopbackType {
		skel.PluginMainFuncs(plugin.Loopback{}.Funcs(), plugin.Versions(), "CNI plugin loopback of podfence "+version)
		return
	}
	skel.PluginMainFuncs(plugin.Plugin{}.Funcs(), plugin.Versions(), "CNI plugin podfence "+version)
}
