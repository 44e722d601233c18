package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// lent are the controllers that the root cgroup's children have; with version 1 each has a
// tree of its own.
func lent(t *testing.T, cgroup string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cgroup, "cgroup.subtree_control"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// TestCgroupLeavesNothing: the root cgroup is afterwards as it was.
func TestCgroupLeavesNothing(t *testing.T) {
	before := lent(t, cgroups)
	c, err := NewCgroup(64 << 20)
	if err != nil {
		t.Skipf("skipped: there is no memory controller here: %v", err)
	}
	if usage, err := c.Usage(); err != nil || usage > 64<<20 {
		t.Errorf("%d bytes in use: %v", usage, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if after := lent(t, cgroups); after != before {
		t.Errorf("the root cgroup's children have had %q, and have %q", before, after)
	}
	if _, err := os.Stat(c.folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", c.folder, err)
	}
}

// TestLendMemory does with files, as a kernel with cgroups of version 1 has no others, what
// the kernel is asked for: nothing if the children have the controller, else to give it
// and to take it back.
func TestLendMemory(t *testing.T) {
	for has, want := range map[string][2]string{
		"cpu io\n":        {"+memory", "-memory"},
		"\n":              {"+memory", "-memory"},
		"cpu memory io\n": {"cpu memory io\n", "cpu memory io\n"},
	} {
		cgroup := t.TempDir()
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.subtree_control"), []byte(has), 0o600); err != nil {
			t.Fatal(err)
		}
		restore, err := lendMemory(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		asked := [2]string{lent(t, cgroup)}
		if err := restore(); err != nil {
			t.Fatal(err)
		}
		if asked[1] = lent(t, cgroup); asked != want {
			t.Errorf("%q: %q was written, want %q", has, asked, want)
		}
	}
}
