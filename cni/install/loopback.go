package install

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// pluginProgram is the plugin's main package, which the Go toolchain notes in what it
// builds: by that podfence knows its own program, of whatever version, under another
// name.
const pluginProgram = "github.com/podfence/podfence/cni/podfence-cni"

// InstallLoopback makes a copy of the plugin the loopback plugin of a folder, if that has
// none, or an older copy. It returns whether it did. One that is not podfence's is left
// alone.
//
// It is a copy, not a link of either kind to the plugin: `cp loopback DIR`, by which nodes
// get the real one, writes into the file that the name leads to, and would put another
// program in the plugin's place.
func InstallLoopback(from, dir string) (changed bool, err error) {
	changed, err = installLoopback(from, dir)
	if err != nil {
		return false, fmt.Errorf("install loopback plugin: %w", err)
	}
	return changed, nil
}

func installLoopback(from, dir string) (changed bool, err error) {
	path := filepath.Join(dir, Loopback)
	give := giveFree
	if _, err := os.Lstat(path); err == nil {
		own, err := ownLoopback(dir)
		if err != nil || !own {
			return false, err
		}
		give = os.Rename
	}
	source, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return false, err
	}
	changed, err = writeAs(path, source, info.Size(), 0o755, give)
	if errors.Is(err, fs.ErrExist) {
		return false, nil // somebody else has put one there just now
	}
	return changed, err
}

// giveFree gives a file a name, if no other file has it.
func giveFree(file, name string) error {
	if err := os.Link(file, name); err != nil {
		return err
	}
	return os.Remove(file)
}

// ownLoopback says whether the loopback plugin of a folder is podfence's: the plugin's
// program, or the link to it that older releases have made.
func ownLoopback(dir string) (bool, error) {
	path := filepath.Join(dir, Loopback)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := os.Readlink(path)
		return target == Plugin, err
	}
	if !info.Mode().IsRegular() {
		return false, nil
	}
	// What is no program of Go's, half of one, or not to be read, is not podfence's.
	build, err := buildinfo.ReadFile(path)
	return err == nil && build.Path == pluginProgram, nil
}
