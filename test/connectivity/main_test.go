package connectivity_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podfence/podfence/test/prebuilt"
)

// cniBinary is where build makes podfence-cni when a test first needs it.
var (
	cniBinary string
	build     = sync.OnceValue(func() error { return prebuilt.Plugin(cniBinary) })
)

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard()) // the agents have loggers of their own
	dir, err := os.MkdirTemp("", "podfence-connectivity-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cniBinary = filepath.Join(dir, "podfence")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
