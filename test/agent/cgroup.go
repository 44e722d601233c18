package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is where they are mounted: the one tree of version 2, or a tree for each
// controller of version 1.
const cgroups = "/sys/fs/cgroup"

// Cgroup is a cgroup that bounds an agent's memory, that which the kernel has on its
// account included.
type Cgroup struct {
	folder string
	// at is where the agent finds it: a container sees its own cgroup alone.
	at string
	// limit, usage, peak and kills are files.
	limit, usage, peak, kills string
	// restore takes the memory controller back from the root's children.
	restore func() error
}

// NewCgroup makes a cgroup with a limit in bytes. It is an error where there is no memory
// controller to be had. Of several at a time, the one that was made first is to be closed
// last.
func NewCgroup(limit int64) (c *Cgroup, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroups, &fs); err != nil {
		return nil, fmt.Errorf("%s: %w", cgroups, err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		c = &Cgroup{at: cgroups, limit: "memory.max", usage: "memory.current", peak: "memory.peak", kills: "memory.events"}
		if c.restore, err = lendMemory(cgroups); err != nil {
			return nil, err
		}
	} else {
		c = &Cgroup{
			restore: func() error { return nil },
			at:      filepath.Join(cgroups, "memory"),
			limit:   "memory.limit_in_bytes", usage: "memory.usage_in_bytes", peak: "memory.max_usage_in_bytes", kills: "memory.oom_control",
		}
	}
	if c.folder, err = os.MkdirTemp(c.at, "podfence-agent-"); err != nil {
		return nil, errors.Join(fmt.Errorf("make a memory cgroup: %w", err), c.restore())
	}
	if err := c.SetLimit(limit); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// lendMemory gives the children of a cgroup the memory controller, if they do not have it,
// until restore.
func lendMemory(cgroup string) (restore func() error, err error) {
	control := filepath.Join(cgroup, "cgroup.subtree_control")
	has, err := os.ReadFile(control)
	if err != nil {
		return nil, err
	}
	if slices.Contains(strings.Fields(string(has)), "memory") {
		return func() error { return nil }, nil
	}
	if err := os.WriteFile(control, []byte("+memory"), 0); err != nil {
		return nil, fmt.Errorf("have the memory controller for a cgroup: %w", err)
	}
	return func() error { return os.WriteFile(control, []byte("-memory"), 0) }, nil
}

// SetLimit sets how many bytes there may be.
func (c *Cgroup) SetLimit(bytes int64) error {
	if err := os.WriteFile(filepath.Join(c.folder, c.limit), []byte(strconv.FormatInt(bytes, 10)), 0); err != nil {
		return fmt.Errorf("limit a cgroup's memory: %w", err)
	}
	return nil
}

// Usage is how many bytes are in use, Peak the most that there have been.
func (c *Cgroup) Usage() (bytes int64, err error) { return c.read(c.usage) }

// Peak is the most bytes that have been in use.
func (c *Cgroup) Peak() (bytes int64, err error) { return c.read(c.peak) }

func (c *Cgroup) read(file string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(c.folder, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// Kills is how many processes the kernel has killed for the limit.
func (c *Cgroup) Kills() (n int, err error) {
	text, err := os.ReadFile(filepath.Join(c.folder, c.kills))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if count, is := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); is {
			return strconv.Atoi(count)
		}
	}
	return 0, fmt.Errorf("%s does not say how many were killed", c.kills)
}

// Close removes the cgroup, whose processes have ended: the kernel may take a moment to
// notice. The root cgroup is then as it was before.
func (c *Cgroup) Close() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Rmdir(c.folder)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return errors.Join(err, c.restore())
		}
	}
}

// enter is the command that puts itself into the cgroup, as all that it sees of cgroups,
// and then becomes another command.
func (c *Cgroup) enter(command []string) []string {
	const script = `echo $$ >"$1/cgroup.procs" && mount --bind "$1" "$2" && shift 2 && exec "$@"`
	return append([]string{"/bin/sh", "-c", script, "sh", c.folder, c.at}, command...)
}
