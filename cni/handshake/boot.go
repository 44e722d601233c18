package handshake

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Boot says when a file was written by NoteBoot.
type Boot int

// What a Boot may be.
const (
	// NeverNoted: the file does not exist.
	NeverNoted Boot = iota
	// ThisBoot: the file was written since the node's last start.
	ThisBoot
	// EarlierBoot: the file was written before that. Of the links, routes, rules and network
	// namespaces of that time, none is left.
	EarlierBoot
)

// bootID names the time from the node's last start to its next; see random(4).
const bootID = "/proc/sys/kernel/random/boot_id"

// NoteBoot writes a file that says which boot this is, whole or not at all. It is put beside files
// that are not to outlive the boot, because not every /run is emptied by one.
func NoteBoot(path string) error {
	id, err := os.ReadFile(bootID)
	if err != nil {
		return fmt.Errorf("which boot this is: %w", err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, id, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// BootOf says when a file was written by NoteBoot.
func BootOf(path string) (Boot, error) {
	noted, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return NeverNoted, nil
	}
	if err != nil {
		return NeverNoted, err
	}
	id, err := os.ReadFile(bootID)
	if err != nil {
		return NeverNoted, fmt.Errorf("which boot this is: %w", err)
	}
	if bytes.Equal(noted, id) {
		return ThisBoot, nil
	}
	return EarlierBoot, nil
}

// committedFile is the file beside the socket that says that there are rules in the kernel.
func committedFile(socket string) string { return filepath.Join(filepath.Dir(socket), "committed") }

// NoteCommit notes, for as long as the node is up, that pods can be connected: the agent's first
// commit is in the kernel, where the rules stay without the agent.
func NoteCommit(socket string) error { return NoteBoot(committedFile(socket)) }

// Committed says whether there was a NoteCommit since the node has started.
func Committed(socket string) (bool, error) {
	boot, err := BootOf(committedFile(socket))
	return boot == ThisBoot, err
}
