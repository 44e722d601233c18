package netns_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// namespace names the one of the calling thread.
func namespace(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink(netns.Own)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A function runs in the namespace, its error is returned, and nobody else comes to be there.
func TestInside(t *testing.T) {
	home := namespace(t)
	made := -1
	err := netns.OnThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			made, err = netns.Open(netns.Own)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(made)
	failed := errors.New("failed")
	for range 20 {
		where := ""
		if err := netns.Inside(made, func() error { where = namespace(t); return failed }); !errors.Is(err, failed) || where == home {
			t.Fatalf("it ran in %s, and returned %v", where, err)
		}
		if now := namespace(t); now != home {
			t.Fatalf("the caller is in %s by now", now)
		}
	}
	if err := netns.Inside(0, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("in the process's own: %v", err)
	}
	if err := netns.InsidePath(t.TempDir()+"/none", func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in none: %v", err)
	}
}
