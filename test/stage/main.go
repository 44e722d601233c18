package stage

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podfence/podfence/test/prebuilt"
)

// programs is the folder of what stages run: podfence, its plugin, and the reference
// plugins.
var programs string

// errReference is why there are no reference plugins.
var errReference error

// Main makes the programs, once for all tests, and runs those. It returns the exit code.
func Main(m *testing.M) int {
	log.SetLogger(logr.Discard())
	if os.Geteuid() != 0 {
		return m.Run() // the tests say what they miss
	}
	var err error
	if programs, err = os.MkdirTemp("", "podfence-stage-"); err == nil {
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
	errReference = prebuilt.Reference(programs, "main/bridge", "main/ptp", "ipam/host-local")
	return prebuilt.Plugin(program("podfence"))
}
