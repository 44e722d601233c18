package install_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/test/prebuilt"
)

// plugins is a folder for them, with two versions of podfence's to install.
type plugins struct {
	t        *testing.T
	dir      string
	old, now string
}

// program is podfence-cni.
func program(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "podfence-cni")
	if err := prebuilt.Plugin(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newPlugins(t *testing.T, program []byte) *plugins {
	t.Helper()
	from := t.TempDir()
	p := &plugins{t: t, dir: t.TempDir(), old: filepath.Join(from, "old"), now: filepath.Join(from, "now")}
	p.must(os.WriteFile(p.now, program, 0o755))
	// Of another version the same program differs, somewhere.
	p.must(os.WriteFile(p.old, append(bytes.Clone(program), 0), 0o755))
	return p
}

func (p *plugins) path(name string) string { return filepath.Join(p.dir, name) }

func (p *plugins) read(path string) []byte {
	p.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}

// install does what the agent does.
func (p *plugins) install(from string, want bool) {
	p.t.Helper()
	if _, err := install.Binary(from, p.dir); err != nil {
		p.t.Fatal(err)
	}
	if changed, err := install.InstallLoopback(from, p.dir); changed != want || err != nil {
		p.t.Errorf("changed %t, %v", changed, err)
	}
}

// holds says whether two files have the same content.
func (p *plugins) holds(name string, want []byte) {
	p.t.Helper()
	if !bytes.Equal(p.read(p.path(name)), want) {
		p.t.Errorf("%s holds something else", name)
	}
}

func (p *plugins) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// copyOver is how nodes get plugins: cp writes into the file that the name leads to.
func (p *plugins) copyOver(name string, content []byte) {
	p.t.Helper()
	from := filepath.Join(p.t.TempDir(), name)
	p.must(os.WriteFile(from, content, 0o755))
	if out, err := exec.Command("cp", from, p.dir+"/").CombinedOutput(); err != nil {
		p.t.Fatalf("cp: %v: %s", err, out)
	}
}

// TestLoopbackIsACopy: the real one copied over it leaves podfence's plugin alone, and
// stays; podfence's own is kept up to date, and goes with the plugin.
func TestLoopbackIsACopy(t *testing.T) {
	p := newPlugins(t, program(t))
	p.install(p.old, true)
	p.install(p.old, false)
	p.install(p.now, true)
	p.holds("loopback", p.read(p.now))
	info, err := os.Lstat(p.path("loopback"))
	p.must(err)
	if info.Mode() != 0o755 {
		t.Errorf("mode %v", info.Mode())
	}
	p.copyOver("loopback", []byte("the real one"))
	p.holds("podfence", p.read(p.now))
	p.install(p.old, false)
	p.holds("loopback", []byte("the real one"))
	_, err = install.RemovePlugins(p.dir)
	p.must(err)
	p.holds("loopback", []byte("the real one"))
	p.must(os.Remove(p.path("loopback")))
	p.install(p.now, true)
	if removed, err := install.RemovePlugins(p.dir); len(removed) != 2 || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
	if entries, err := os.ReadDir(p.dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

// TestLoopbackOfOthers: what an older podfence, or somebody else, has left.
func TestLoopbackOfOthers(t *testing.T) {
	podfence := program(t)
	for name, c := range map[string]struct {
		make func(*plugins) error
		own  bool
	}{
		"an older podfence's link": {func(p *plugins) error { return os.Symlink("podfence", p.path("loopback")) }, true},
		"that link, written through": {func(p *plugins) error {
			p.must(os.Symlink("podfence", p.path("loopback")))
			p.copyOver("loopback", []byte("the real one"))
			return nil
		}, true},
		"a link to elsewhere":           {func(p *plugins) error { return os.Symlink("/usr/lib/cni/loopback", p.path("loopback")) }, false},
		"a program that is not Go's":    {func(p *plugins) error { return os.WriteFile(p.path("loopback"), []byte("#!/bin/sh\n"), 0o755) }, false},
		"another program of Go's":       {func(p *plugins) error { return os.Link(otherProgram(t), p.path("loopback")) }, false},
		"half of podfence's":            {func(p *plugins) error { return os.WriteFile(p.path("loopback"), p.read(p.now)[:1000], 0o755) }, false},
		"podfence's of another release": {func(p *plugins) error { return os.WriteFile(p.path("loopback"), p.read(p.old), 0o700) }, true},
		"a folder":                      {func(p *plugins) error { return os.Mkdir(p.path("loopback"), 0o755) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlugins(t, podfence)
			p.must(os.WriteFile(p.path("podfence"), p.read(p.old), 0o755))
			p.must(c.make(p))
			before, err := os.Lstat(p.path("loopback"))
			p.must(err)
			p.install(p.now, c.own)
			p.holds("podfence", p.read(p.now))
			if c.own {
				p.holds("loopback", p.read(p.now))
			} else if after, err := os.Lstat(p.path("loopback")); err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
				t.Errorf("another's was changed (%v)", err)
			}
			_, err = install.RemovePlugins(p.dir)
			p.must(err)
			if _, err := os.Lstat(p.path("loopback")); errors.Is(err, fs.ErrNotExist) != c.own {
				t.Errorf("after the plugin's removal: %v", err)
			}
		})
	}
	if _, err := install.InstallLoopback(filepath.Join(t.TempDir(), "none"), t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// otherProgram is a program of Go's: this test, in a folder where it can be linked from.
func otherProgram(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
