package connectivity_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podfence/podfence/test/prebuilt"
)

// programs is the folder in which build makes podfence-cni when a test first needs it.
var (
	programs string
	build    = sync.OnceValue(func() error { return prebuilt.Plugin(cniBinary()) })
)

func cniBinary() string { return filepath.Join(programs, "podfence") }

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard()) // the agents have loggers of their own
	os.Exit(prebuilt.Main(m, &programs))
}
