// Command podfence-cni is the CNI plugin, which the container runtime executes
// for every pod that starts or ends. It links in as little as possible: what it
// does for a pod takes a few milliseconds, and so should starting it.
package main

import (
	"github.com/containernetworking/cni/pkg/skel"

	"github.com/podfence/podfence/cni/plugin"
)

// version is set when the binary is built for release.
var version = "dev"

func main() {
	skel.PluginMainFuncs(plugin.Plugin{}.Funcs(), plugin.Versions(), "CNI plugin podfence "+version)
}
