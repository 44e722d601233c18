package connectivity_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// cniBinary is the built podfence-cni.
var cniBinary string

func TestMain(m *testing.M) { os.Exit(build(m)) }

// build makes the plugin, once for all tests, and runs them.
func build(m *testing.M) int {
	log.SetLogger(logr.Discard()) // the agents have loggers of their own
	if os.Geteuid() != 0 {
		return m.Run() // the tests say what they miss
	}
	dir, err := os.MkdirTemp("", "podfence-connectivity-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	cniBinary = filepath.Join(dir, "podfence")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
		"-o", cniBinary, "github.com/podfence/podfence/cni/podfence-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build podfence-cni: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
