package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
)

// HostPorts is how a node's network serves hostPort: by the portmap plugin, which is
// another project's, in the same list as podfence's.
type HostPorts struct {
	// Versions are the versions of CNI that both plugins know, ascending, of those
	// that a list can have. A runtime calls each plugin of a list at the list's
	// version, and one that does not know it takes all of the list down. None:
	// portmap is not in the list.
	Versions []string
	// Without says why portmap is not in the list; empty: it is.
	Without string
}

// Note is what operators should know of this, empty if all is well.
func (h HostPorts) Note() string {
	switch {
	case h.Without != "":
		return "pods' hostPorts do nothing: " + h.Without
	case !slices.Contains(h.Versions, LatestCNIVersion):
		return fmt.Sprintf("the portmap plugin knows CNI up to %s, so the network is of that version, and runtimes call neither STATUS nor GC: "+
			"release 1.6 of the CNI plugins knows %s", h.Versions[len(h.Versions)-1], LatestCNIVersion)
	}
	return ""
}

// listVersions are the versions that podfence's list can have, ascending: those that
// podfence's plugin speaks and that runtimes for Kubernetes of today still do.
var listVersions = []string{"0.3.1", "0.4.0", CNIVersion, LatestCNIVersion}

// versionTimeout is how long the portmap plugin may take to say its versions. It
// takes milliseconds.
const versionTimeout = 5 * time.Second

// askPortMap asks the portmap plugin in a folder which versions it knows. It is
// executed: CNI has no other way. The error may be of the moment, such as of a file that
// is being written, or of a node that is too busy.
func askPortMap(dir string) (HostPorts, error) {
	path := filepath.Join(dir, PortMap)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return HostPorts{Without: "there is no portmap plugin in " + dir + "; it is one of the CNI plugins, release 1.6 or newer"}, nil
	case err != nil:
		return HostPorts{Without: err.Error()}, err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return HostPorts{Without: path + " is not executable"}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	known, err := invoke.GetVersionInfo(ctx, path, &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: io.Discard}})
	if err != nil {
		return HostPorts{Without: path + " does not say which versions of CNI it knows (VERSION): " + err.Error()}, err
	}
	var both []string
	for _, version := range listVersions {
		if slices.Contains(known.SupportedVersions(), version) {
			both = append(both, version)
		}
	}
	if len(both) == 0 {
		return HostPorts{Without: fmt.Sprintf("%s knows CNI %s, and podfence's network can be of %s: install release 1.6 or newer of the CNI plugins",
			path, strings.Join(known.SupportedVersions(), ", "), strings.Join(listVersions, ", "))}, nil
	}
	return HostPorts{Versions: both}, nil
}

// portMapAnswer is what askPortMap has answered for a file.
type portMapAnswer struct {
	file  os.FileInfo
	ports HostPorts
	// failures are how many times in a row it could not be asked.
	failures int
}

// HostPorts says how hostPort is served, as far as that is known. Not concurrently.
func (p *Places) HostPorts() HostPorts {
	ports, _ := p.hostPorts()
	return ports
}

// hostPorts asks a portmap plugin once, and another one, or one that did not answer,
// again. The error may be of the moment.
func (p *Places) hostPorts() (HostPorts, error) {
	path := filepath.Join(p.BinDir, PortMap)
	file, err := os.Stat(path)
	if was := p.portMap.file; err == nil && was != nil && os.SameFile(file, was) &&
		file.Size() == was.Size() && file.Mode() == was.Mode() && file.ModTime().Equal(was.ModTime()) {
		return p.portMap.ports, nil
	}
	ports, err := askPortMap(p.BinDir)
	if err != nil {
		p.portMap = portMapAnswer{ports: ports, failures: p.portMap.failures + 1}
	} else {
		p.portMap = portMapAnswer{file: file, ports: ports}
	}
	return ports, err
}
