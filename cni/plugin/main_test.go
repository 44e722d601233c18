package plugin_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/plugin"
	"github.com/podfence/podfence/test/prebuilt"
)

// What makes this test binary be a plugin, and what it does between the steps.
const (
	asPlugin  = "PODFENCE_TEST_AS_PLUGIN"
	killAfter = "PODFENCE_TEST_KILL_AFTER" // the step after which it is killed
	stepsFile = "PODFENCE_TEST_STEPS"      // a file to which it adds each step
	// The step after which it waits, and a file: it removes that, and goes on when it
	// is there again.
	pauseAfter, pauseFile = "PODFENCE_TEST_PAUSE_AFTER", "PODFENCE_TEST_PAUSE_FILE"
)

// binDir has the plugin as users run it, and brokenDir the one that can be killed, once
// build has been called.
var binDir, brokenDir string

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		skel.PluginMainFuncs(plugin.Plugin{After: between}.Funcs(), plugin.Versions(), "podfence under test")
		return
	}
	dir, err := os.MkdirTemp("", "podfence-cni-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir, brokenDir = filepath.Join(dir, "bin"), filepath.Join(dir, "broken")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build makes the plugins when a test first needs them.
var build = sync.OnceValue(func() error {
	self, err := os.Executable()
	return errors.Join(err, prebuilt.Plugin(filepath.Join(binDir, "podfence")),
		os.Mkdir(brokenDir, 0o700), os.Symlink(self, filepath.Join(brokenDir, "podfence")))
})

// between is called by the plugin after each step.
func between(step string) {
	if path := os.Getenv(stepsFile); path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, step)
		}
		if err != nil {
			panic(err)
		}
		f.Close()
	}
	if os.Getenv(pauseAfter) == step {
		if err := os.Remove(os.Getenv(pauseFile)); err != nil {
			panic(err)
		}
		for {
			if _, err := os.Stat(os.Getenv(pauseFile)); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	if os.Getenv(killAfter) == step {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}
