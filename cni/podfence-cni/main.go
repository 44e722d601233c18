// Command podfence-cni is the CNI plugin, which the container runtime executes
// for every pod that starts or ends. It links in as little as possible: what it
// does for a pod takes a few milliseconds, and so should starting it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/podfence/podfence/api/build"
	"github.com/podfence/podfence/cni/plugin"
)

// version is set when the binary is built for release.
var version = "dev"

func main() {
	// A runtime says what it wants only in the environment (CNI_COMMAND). Whoever gives arguments
	// means the other program of this name. If this one printed what it is and succeeded, as
	// plugins do when they are run by hand, it would look as if it had done what was asked.
	if len(os.Args) > 1 && os.Getenv("CNI_COMMAND") == "" {
		fmt.Fprintf(os.Stderr, "%s: this is podfence's CNI plugin %s, which container runtimes execute without arguments; "+
			"it does nothing of %q: that is for podfence, which is in the image, not on the node\n", os.Args[0], version, os.Args[1])
		os.Exit(2)
	}
	// A runtime asks for a plugin by its file's name. On a node without the
	// loopback plugin that is the name of a copy of this program.
	if filepath.Base(os.Args[0]) == plugin.LoopbackType {
		skel.PluginMainFuncs(plugin.Loopback{}.Funcs(), plugin.Versions(), about("loopback of podfence"))
		return
	}
	skel.PluginMainFuncs(plugin.Plugin{}.Funcs(), plugin.Versions(), about("podfence"))
}

// about is what a plugin says of itself when it is run by hand: on standard error, before the versions of the
// CNI specification that it knows.
func about(name string) string {
	return "CNI plugin " + name + " " + build.Of(version).Line()
}
