package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroups = "/sys/fs/cgroup"

// hierarchies are the cgroup trees that are mounted: one on cgroup v2, one per
// controller on v1.
func hierarchies() (dirs []string, v2 bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroups, &fs); err != nil {
		return nil, false, fmt.Errorf("%s: %w", cgroups, err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroups}, true, nil
	}
	entries, err := os.ReadDir(cgroups)
	for _, e := range entries {
		// unified is v2 without controllers. Links are aliases, as cpu for cpu,cpuacct.
		if e.IsDir() && e.Name() != "unified" {
			dirs = append(dirs, filepath.Join(cgroups, e.Name()))
		}
	}
	return dirs, false, err
}

// makeCgroup makes a node's cgroup in every hierarchy and returns its path
// below those.
func makeCgroup(cluster, node string) (string, error) {
	dirs, v2, err := hierarchies()
	if err != nil {
		return "", err
	}
	name := path.Join("/podfence-cluster", cluster, node)
	for _, dir := range dirs {
		if err := os.MkdirAll(dir+name, 0o755); err != nil {
			return "", err
		}
		// From the top down: what a cgroup may use its parent must have given it.
		for parent, left := dir, strings.Split(name[1:], "/"); len(left) > 0; parent, left = filepath.Join(parent, left[0]), left[1:] {
			if v2 {
				err = delegate(parent)
			} else {
				err = inherit(parent, filepath.Join(parent, left[0]))
			}
			if err != nil {
				return "", err
			}
		}
	}
	return name, nil
}

// delegate lets a v2 cgroup's children have all of its controllers.
func delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(have)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("give controller %s to the cgroups below %s: %w", controller, dir, err)
		}
	}
	return nil
}

// inherit gives a v1 cpuset its parent's, which it has not by itself.
func inherit(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, file), bytes.TrimSpace(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes those of a cluster, or of one of its nodes, whose
// processes have ended.
func removeCgroups(below ...string) error {
	dirs, _, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		all := filepath.Join(dir, "podfence-cluster")
		errs = append(errs, removeTree(filepath.Join(append([]string{all}, below...)...)))
		// That of all clusters, unless there is another.
		if err := os.Remove(all); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and those below it. The files in a cgroup can't
// be removed, and a process that was just killed may be in it a moment longer.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
}
