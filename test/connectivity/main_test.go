package connectivity_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podfence/podfence/test/prebuilt"
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
	if err := prebuilt.Plugin(cniBinary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
