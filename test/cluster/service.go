package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// HostProcess is the directory, in /proc of this machine, of a host's first process.
// Below its root are the host's files.
func (c *Cluster) HostProcess(host string) (string, error) {
	pid, err := os.ReadFile(filepath.Join(c.hostDir(host), "pid"))
	if err != nil {
		return "", fmt.Errorf("%s of cluster %s: %w", host, c.Name, err)
	}
	return filepath.Join("/proc", string(bytes.TrimSpace(pid))), nil
}

// Signal sends a signal to a service of a host, as kubelet or containerd. SIGSTOP has it
// stand still until SIGCONT or SIGKILL; one that has ended the host starts again.
func (c *Cluster) Signal(host, service string, signal syscall.Signal) error {
	init, err := c.HostProcess(host)
	if err != nil {
		return err
	}
	threads, err := filepath.Glob(filepath.Join(init, "task", "*", "children"))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		children, _ := os.ReadFile(thread) // it may have ended, as may those below
		for _, child := range strings.Fields(string(children)) {
			name, _ := os.ReadFile(filepath.Join("/proc", child, "comm"))
			pid, err := strconv.Atoi(child)
			if err == nil && string(bytes.TrimSpace(name)) == service {
				return syscall.Kill(pid, signal)
			}
		}
	}
	return fmt.Errorf("%s of cluster %s runs no %s", host, c.Name, service)
}
