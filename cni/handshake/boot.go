package handshake

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// BootID names the time from the node's last start to its next: see random(4),
// /proc/sys/kernel/random/boot_id.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("which boot this is: %w", err)
	}
	return string(bytes.TrimSpace(id)), nil
}

// committedFile says beside the socket that there are rules in the kernel. It
// holds the boot's ID: not everywhere does /run end with the boot, as the rules do.
func committedFile(socket string) string { return filepath.Join(filepath.Dir(socket), "committed") }

// NoteCommit is the agent's word, for as long as the node is up, that pods can be
// connected: its first commit is in the kernel, where the rules stay without it.
func NoteCommit(socket string) error {
	id, err := BootID()
	if err != nil {
		return err
	}
	path := committedFile(socket)
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(id+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// Committed says whether there was a NoteCommit since the node has started.
func Committed(socket string) (bool, error) {
	said, err := os.ReadFile(committedFile(socket))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	id, err := BootID()
	return err == nil && string(bytes.TrimSpace(said)) == id, err
}
