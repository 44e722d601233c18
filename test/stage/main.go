package stage

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podfence/podfence/test/prebuilt"
)

// programs is the folder of what stages run: podfence, its plugin, and the reference
// plugins.
var programs string

// Main runs the tests with a folder for the programs. It returns the exit code.
func Main(m *testing.M) int {
	log.SetLogger(logr.Discard())
	return prebuilt.Main(m, &programs)
}

func program(name string) string { return filepath.Join(programs, name) }

// build makes podfence and its plugin, and reference the reference plugins, when a test
// first needs them.
var (
	build = sync.OnceValue(func() error {
		return errors.Join(prebuilt.Podfence(program("podfence-agent")), prebuilt.Plugin(program("podfence")))
	})
	reference = sync.OnceValue(func() error {
		return prebuilt.Reference(programs, "main/bridge", "main/ptp", "ipam/host-local")
	})
)
