package install_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/test/prebuilt"
)

// folder is a folder with these files, by name.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestRemoveConfigurations(t *testing.T) {
	others := map[string]string{
		"05-other.conflist":  `{"name":"other","plugins":[{"type":"bridge"}]}`,
		"20-broken.conflist": `{"plugins":`, "30-list.conf": `[]`, "40-entries.json": `{"plugins":[null,7]}`,
		"00-podfence.conflist.bak": `{"plugins":[{"type":"podfence"}]}`,
	}
	own := map[string]string{
		install.ConflistName:  string(conflist(t, conf, withPortMap)),
		"00-renamed.conflist": string(conflist(t, conf, withoutPortMap)),
	}
	unfinished := "." + install.ConflistName + ".1234.unfinished"
	files := map[string]string{unfinished: "{"}
	for _, some := range []map[string]string{others, own} {
		for name, text := range some {
			files[name] = text
		}
	}
	dir := folder(t, files)
	removed, err := install.RemoveConfigurations(dir)
	if err != nil || len(removed) != 2 {
		t.Errorf("removed %v, %v", removed, err)
	}
	for _, name := range names(t, dir) {
		if _, is := others[name]; !is {
			t.Errorf("%s is there yet", name)
		}
	}
	if got := len(names(t, dir)); got != len(others) {
		t.Errorf("of %d files of others %d are left", len(others), got)
	}
	if removed, err := install.RemoveConfigurations(dir); err != nil || len(removed) > 0 {
		t.Errorf("again: removed %v, %v", removed, err)
	}
	if removed, err := install.RemoveConfigurations(filepath.Join(dir, "none")); err != nil || len(removed) > 0 {
		t.Errorf("of no folder: removed %v, %v", removed, err)
	}
}

// A file that is ours only by its name is removed, as the agent would write it over.
func TestRemoveBrokenConfiguration(t *testing.T) {
	dir := folder(t, map[string]string{install.ConflistName: "{"})
	if removed, err := install.RemoveConfigurations(dir); err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
}

func TestChainedConfigurations(t *testing.T) {
	chained, err := install.Chain([]byte(`{"name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap"}]}`), install.Conf{})
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{
		"10-flannel.conflist": string(chained),
		"20-hand.conflist":    `{"name":"x","plugins":[{"type":"bridge"},{"type":"podfence"}]}`,
		install.ConflistName:  string(conflist(t, conf, withPortMap)),
	})
	behind, err := install.OthersCalling(dir)
	want := []string{filepath.Join(dir, "10-flannel.conflist"), filepath.Join(dir, "20-hand.conflist")}
	if err != nil || !slices.Equal(behind, want) {
		t.Errorf("chained are %v, %v; want %v", behind, err, want)
	}
	if _, err := install.RemoveConfigurations(dir); err != nil {
		t.Error(err)
	}
	if left := names(t, dir); !slices.Equal(left, []string{"10-flannel.conflist", "20-hand.conflist"}) {
		t.Errorf("left are %v", left)
	}
}

// Of the loopback plugin only podfence's own goes: a link to the plugin, or a copy of it,
// of whatever version.
func TestRemovePlugins(t *testing.T) {
	built := filepath.Join(t.TempDir(), "podfence-cni")
	if err := prebuilt.Plugin(built); err != nil {
		t.Fatal(err)
	}
	plugin, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(self) // a Go program that is not podfence's
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		make func(path string) error
		own  bool
	}{
		"link":           {func(path string) error { return os.Symlink("podfence", path) }, true},
		"copy":           {func(path string) error { return os.WriteFile(path, plugin, 0o755) }, true},
		"another's":      {func(path string) error { return os.WriteFile(path, other, 0o755) }, false},
		"script":         {func(path string) error { return os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755) }, false},
		"another's link": {func(path string) error { return os.Symlink("cni-plugins/loopback", path) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			// The installed plugin is of another version than the copy.
			dir := folder(t, map[string]string{"podfence": "an older one", "bridge": "another's"})
			loopback := filepath.Join(dir, "loopback")
			if err := c.make(loopback); err != nil {
				t.Fatal(err)
			}
			removed, err := install.RemovePlugins(dir)
			want := []string{filepath.Join(dir, "podfence")}
			if c.own {
				want = []string{loopback, want[0]}
			}
			if err != nil || !slices.Equal(removed, want) {
				t.Errorf("removed %v, %v; want %v", removed, err, want)
			}
			if _, err := os.Lstat(loopback); (err == nil) == c.own {
				t.Errorf("loopback: %v", err)
			}
			if removed, err := install.RemovePlugins(dir); err != nil || len(removed) > 0 {
				t.Errorf("again: removed %v, %v", removed, err)
			}
		})
	}
}
