package paths_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podfence/podfence/test/prebuilt"
)

var full = flag.Bool("paths", false, "send all frames there are, in all scenes, not a part of them in some")

// programs is the folder of what the tests run: podfence, its plugin, and the reference
// plugins.
var programs string

// errReference is why there are no reference plugins.
var errReference error

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(build(m))
}

// build makes the programs, once for all tests, and runs those.
func build(m *testing.M) int {
	log.SetLogger(logr.Discard())
	if os.Geteuid() != 0 {
		return m.Run() // the tests say what they miss
	}
	var err error
	if programs, err = os.MkdirTemp("", "podfence-paths-"); err == nil {
		defer os.RemoveAll(programs)
		err = makePrograms()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func program(name string) string { return filepath.Join(programs, name) }

func makePrograms() error {
	if err := prebuilt.Podfence(program("podfence-agent")); err != nil {
		return err
	}
	errReference = makeReference()
	return prebuilt.Plugin(program("podfence"))
}

// makeReference builds the plugins of containernetworking, of the version in go.mod. That
// takes what podfence alone does not need, which may not be there.
func makeReference() error {
	const module = "github.com/containernetworking/plugins"
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return fmt.Errorf("version of %s: %w", module, err)
	}
	install := []string{"install", "-ldflags", "-s -w"}
	for _, name := range []string{"main/bridge", "main/ptp", "ipam/host-local"} {
		install = append(install, module+"/plugins/"+name+"@"+strings.TrimSpace(string(version)))
	}
	cmd := exec.Command("go", install...)
	cmd.Dir, cmd.Env = programs, append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+programs, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the reference plugins: %w\n%s", err, out)
	}
	return nil
}
