package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// namesDir is where iproute2 keeps the names of network namespaces.
const namesDir = "/run/netns"

// namespace is a network namespace, kept alive by an open file and, if path is
// not empty, by a name.
type namespace struct {
	fd   int
	path string
}

// newNamespace makes a namespace; with a name, one that iproute2 can see.
func newNamespace(name string) (ns namespace, err error) {
	ns.fd = -1
	err = netns.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		if ns.fd, err = netns.Open(netns.Own); err != nil {
			return err
		}
		if name == "" {
			return nil
		}
		return ns.keep(name)
	})
	if err != nil {
		return ns, errors.Join(err, ns.close())
	}
	return ns, nil
}

// keep gives the namespace, which is the calling thread's, a name.
func (ns *namespace) keep(name string) error {
	if err := os.MkdirAll(namesDir, 0o755); err != nil {
		return fmt.Errorf("names of network namespaces: %w", err)
	}
	path := filepath.Join(namesDir, strings.ReplaceAll(name, "/", "-"))
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("name of a network namespace: %w", err)
	}
	ns.path = path
	if err := file.Close(); err != nil {
		return fmt.Errorf("name of a network namespace: %w", err)
	}
	if err := unix.Mount(netns.Own, path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount network namespace on %s: %w", path, err)
	}
	return nil
}

// close lets go of the namespace; the kernel removes it, and all links in it,
// once no socket of it is left.
func (ns *namespace) close() error {
	var errs []error
	if ns.path != "" {
		errs = append(errs, removeName(ns.path))
		ns.path = ""
	}
	if ns.fd >= 0 {
		errs = append(errs, unix.Close(ns.fd))
		ns.fd = -1
	}
	return errors.Join(errs...)
}

func removeName(path string) error {
	// EINVAL: nothing is mounted there. ENOENT: another has removed it.
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("name of a network namespace: %w", err)
	}
	return nil
}

// RemoveLeftovers removes the names that start with prefix: what a lab with
// this Options.Prefix leaves behind when it is killed. The namespaces go with
// their names unless another process is still in them. It returns the names
// removed.
func RemoveLeftovers(prefix string) ([]string, error) {
	if prefix == "" {
		return nil, errors.New("remove leftover network namespaces: empty prefix")
	}
	entries, err := os.ReadDir(namesDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("names of network namespaces: %w", err)
	}
	var removed []string
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		if err := removeName(filepath.Join(namesDir, e.Name())); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, errors.Join(errs...)
}

// inside runs f on a thread in the namespace.
func (ns *namespace) inside(f func() error) error { return netns.Inside(ns.fd, f) }
