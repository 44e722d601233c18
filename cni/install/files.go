package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// DefaultConfDir is where runtimes look for configurations.
	DefaultConfDir = "/etc/cni/net.d"
	// DefaultBinDir is where runtimes look for plugins.
	DefaultBinDir = "/opt/cni/bin"
	// ConflistName is the configuration's file, if no other name is given: runtimes take
	// the first by name.
	ConflistName = "10-podfence.conflist"
)

// WriteConflist puts a configuration into a folder, which it makes if need be, under a
// name. It returns whether the file was another before. Concurrent calls are safe: one
// comes last.
func WriteConflist(dir, name string, conflist []byte) (changed bool, err error) {
	changed, err = write(filepath.Join(dir, name), bytes.NewReader(conflist), int64(len(conflist)), 0o644)
	if err != nil {
		return changed, fmt.Errorf("install network configuration: %w", err)
	}
	return changed, nil
}

// Binary copies the plugin from a file into a folder, which it makes if need be.
// It returns whether the file was another before.
func Binary(from, dir string) (changed bool, err error) {
	source, err := os.Open(from)
	if err != nil {
		return false, fmt.Errorf("install plugin: %w", err)
	}
	defer source.Close()
	info, err := source.Stat()
	if err == nil {
		changed, err = write(filepath.Join(dir, Plugin), source, info.Size(), 0o755)
	}
	if err != nil {
		return changed, fmt.Errorf("install plugin: %w", err)
	}
	return changed, nil
}

// removeOwn removes the configurations that podfence has written, except the one of the name but.
func removeOwn(dir, but string) (changed bool, err error) {
	all, err := Configurations(dir)
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if !c.Own || c.Name == but {
			continue
		}
		if _, err := remove(dir, c.Name); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

func remove(dir, name string) (bool, error) {
	if err := removeUnfinished(dir, name, 0); err != nil {
		return false, fmt.Errorf("remove unfinished %s: %w", name, err)
	}
	err := os.Remove(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return false, fmt.Errorf("remove %s: %w", name, err)
	}
	return true, nil
}

// write makes a file what the content is, unless it is. The content is read
// twice then.
func write(path string, content io.ReadSeeker, size int64, mode fs.FileMode) (bool, error) {
	return writeAs(path, content, size, mode, os.Rename)
}

// writeAs is write, with what gives the finished file its name.
func writeAs(path string, content io.ReadSeeker, size int64, mode fs.FileMode, give func(file, name string) error) (bool, error) {
	dir, name := filepath.Split(path)
	if err := removeUnfinished(dir, name, time.Minute); err != nil {
		return false, err
	}
	same, err := equal(path, content, size, mode)
	if err != nil || same {
		return false, err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	file, err := os.CreateTemp(dir, unfinished(name))
	if err != nil {
		return false, about(path, err)
	}
	_, err = io.Copy(file, content)
	// Sync, or a crash of the machine may leave the new name with no content.
	// Chmod, because the umask has its say in no mode given when a file is made.
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
	if err == nil {
		err = give(file.Name(), path)
	}
	if err != nil {
		return false, about(path, errors.Join(err, os.Remove(file.Name())))
	}
	return true, syncDir(dir)
}

// about makes an error name the file that was to be written. The name of the unfinished file is
// another one each time, so that the same failure would look new.
func about(path string, err error) error {
	var why syscall.Errno
	if !errors.As(err, &why) {
		return err
	}
	return &fs.PathError{Op: "write", Path: path, Err: why}
}

// syncDir makes a change of names durable.
func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// unfinished is the pattern of the names that files have until they are done.
func unfinished(name string) string { return "." + name + ".*.unfinished" }

// removeUnfinished removes what killed processes have left: files that nobody
// has written to for this long. A live process, such as the agent's predecessor,
// may be about to rename a younger one.
func removeUnfinished(dir, name string, age time.Duration) error {
	found, err := filepath.Glob(filepath.Join(dir, unfinished(name)))
	if err != nil {
		return err
	}
	for _, path := range found {
		info, err := os.Lstat(path)
		if err == nil && time.Since(info.ModTime()) >= age {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// equal says whether a file is as it should be. What is no plain file, such as
// a link, is not: it is replaced, and what it leads to left alone.
func equal(path string, content io.Reader, size int64, mode fs.FileMode) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode() != mode || info.Size() != size {
		return false, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(file, a)
		m, errB := io.ReadFull(content, b)
		if !bytes.Equal(a[:n], b[:m]) {
			return false, nil
		}
		endA := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		endB := errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
		switch {
		case errA != nil && !endA:
			return false, errA
		case errB != nil && !endB:
			return false, errB
		case endA || endB:
			return endA == endB, nil
		}
	}
}
