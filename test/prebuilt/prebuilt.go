// Package prebuilt makes the programs that tests run, or finds them made. Tests make them,
// not a TestMain: else Go's cache of results does not know of their sources (test/inputs).
package prebuilt

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/test/inputs"
)

// Variable names, in the environment, a folder with programs to be run instead of ones built
// on the spot: for where there is no compiler (test/kernels). Each has the name that the go
// command gives it: podfence, podfence-cni, bridge.
const Variable = "PODFENCE_TEST_PROGRAMS"

// Plugin makes podfence-cni executable as path, in a folder that it makes if
// need be.
func Plugin(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return build("cni/podfence-cni", path)
}

// Main runs a package's tests with a folder for the programs that they make, and returns
// the exit code.
func Main(m *testing.M, folder *string) (code int) {
	var err error
	if *folder, err = os.MkdirTemp("", "podfence-programs-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(*folder)
	return m.Run()
}

// Podfence builds podfence, as it is released, to path.
func Podfence(path string) error { return build("", path) }

// FirstPacket builds the program of test/e2e's pods that send at once, to path.
func FirstPacket(path string) error { return build("test/e2e/firstpacket", path) }

// Reference builds plugins of containernetworking, such as main/bridge, of the version in
// go.mod, into a folder. It takes their dependencies, which podfence alone does not need.
func Reference(dir string, plugins ...string) error {
	if os.Getenv(Variable) != "" {
		var errs []error
		for _, name := range plugins {
			errs = append(errs, link(filepath.Base(name), filepath.Join(dir, filepath.Base(name))))
		}
		return errors.Join(errs...)
	}
	const module = "github.com/containernetworking/plugins"
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return fmt.Errorf("version of %s: %w", module, err)
	}
	install := []string{"install", "-ldflags", "-s -w"}
	for _, name := range plugins {
		install = append(install, module+"/plugins/"+name+"@"+strings.TrimSpace(string(version)))
	}
	cmd := exec.Command("go", install...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the reference plugins: %w\n%s", err, out)
	}
	return nil
}

// link makes a program of the folder that Variable names executable as path.
func link(program, path string) error {
	made := filepath.Join(os.Getenv(Variable), program)
	// A link would dangle without a word until it is executed.
	if _, err := os.Stat(made); err != nil {
		return fmt.Errorf("%s: %w", Variable, err)
	}
	return os.Symlink(made, path)
}

// build builds a program of this module, or finds it built.
func build(folder, path string) error {
	program := strings.TrimSuffix("github.com/podfence/podfence/"+folder, "/")
	if os.Getenv(Variable) != "" {
		return link(filepath.Base(program), path)
	}
	cmd := exec.Command("go", "build", "-tags", "grpcnotrace", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", program, err, out)
	}
	return inputs.Packages(program)
}
