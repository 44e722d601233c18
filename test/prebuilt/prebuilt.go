// Package prebuilt makes the programs that tests run, or finds them made.
package prebuilt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// PluginVariable names, in the environment, a podfence-cni to be tested instead
// of one built on the spot: for where there is no compiler, or a slow machine
// under it (test/kernels).
const PluginVariable = "PODFENCE_TEST_PLUGIN"

// Plugin makes podfence-cni executable as path, in a folder that it makes if
// need be.
func Plugin(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if made := os.Getenv(PluginVariable); made != "" {
		// A link would dangle without a word until it is executed.
		if _, err := os.Stat(made); err != nil {
			return fmt.Errorf("%s: %w", PluginVariable, err)
		}
		return os.Symlink(made, path)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
		"-o", path, "github.com/podfence/podfence/cni/podfence-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build podfence-cni: %w\n%s", err, out)
	}
	return nil
}
