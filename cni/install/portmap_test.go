package install_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/podfence/podfence/cni/install"
)

// TestPortMap: the list is of a version that the portmap plugin says it knows, or goes
// without it and says so; a runtime would call it at the list's version.
func TestPortMap(t *testing.T) {
	const says = `[ "$CNI_COMMAND" = VERSION ] && echo '{"cniVersion":"1.1.0","supportedVersions":[VERSIONS]}'`
	dir := t.TempDir()
	places := install.Places{ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), Plugin: filepath.Join(dir, "podfence-cni")}
	portmap := filepath.Join(places.BinDir, "portmap")
	if err := os.WriteFile(places.Plugin, []byte("plugin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, script string
		mode         os.FileMode
		version      string // the list's, to a runtime that knows the latest
		first        string // to one that reads cniVersion alone
		without      string // why it is not in the list
		note         string
	}{
		{"none", "", 0, "1.1.0", "1.0.0", "there is no portmap plugin in ", "hostPorts do nothing"},
		{"release 1.6", strings.ReplaceAll(says, "VERSIONS", `"0.1.0","0.3.1","0.4.0","1.0.0","1.1.0"`), 0o755, "1.1.0", "1.0.0", "", ""},
		{"release 1.0", strings.ReplaceAll(says, "VERSIONS", `"0.1.0","0.3.1","0.4.0","1.0.0"`), 0o755, "1.0.0", "1.0.0", "", "neither STATUS nor GC"},
		{"release 0.9", strings.ReplaceAll(says, "VERSIONS", `"0.1.0","0.3.1","0.4.0"`), 0o755, "0.4.0", "0.4.0", "", "CNI up to 0.4.0"},
		{"the latest alone", strings.ReplaceAll(says, "VERSIONS", `"1.1.0","1.2.0"`), 0o755, "1.1.0", "1.1.0", "", ""},
		{"another age", strings.ReplaceAll(says, "VERSIONS", `"0.1.0","0.2.0"`), 0o755, "1.1.0", "1.0.0", "knows CNI 0.1.0, 0.2.0", "hostPorts do nothing"},
		{"broken", "exit 1", 0o755, "1.1.0", "1.0.0", "does not say which versions", "hostPorts do nothing"},
		{"for a libc that is not here", "#!/nonexistent/ld.so", 0o755, "1.1.0", "1.0.0", "does not say which versions", "hostPorts do nothing"},
		{"not executable", says, 0o644, "1.1.0", "1.0.0", "is not executable", "hostPorts do nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.mode != 0 {
				script := c.script
				if !strings.HasPrefix(script, "#!") {
					script = "#!/bin/sh\n" + script + "\n"
				}
				// Renamed into place, as one that is written is busy.
				if err := os.WriteFile(portmap+".new", []byte(script), c.mode); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(portmap+".new", portmap); err != nil {
					t.Fatal(err)
				}
			}
			err := places.Publish(conf)
			for range 2 { // it may be of the moment
				if err != nil {
					err = places.Publish(conf)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(places.ConfDir, install.ConflistName))
			if err != nil {
				t.Fatal(err)
			}
			list, err := libcni.NetworkConfFromBytes(text)
			if err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			var fields struct {
				CNIVersion string
				Plugins    []struct {
					Type, NoHostPort string
					Capabilities     map[string]bool
				}
			}
			if err := json.Unmarshal(text, &fields); err != nil {
				t.Fatal(err)
			}
			if list.CNIVersion != c.version || fields.CNIVersion != c.first {
				t.Errorf("version %s, or %s, want %s, or %s", list.CNIVersion, fields.CNIVersion, c.version, c.first)
			}
			own, chained := fields.Plugins[0], len(fields.Plugins) == 2
			if chained != (c.without == "") || !strings.Contains(own.NoHostPort, c.without) || chained && own.NoHostPort != "" {
				t.Errorf("chained: %t, podfence's own: %+v", chained, own)
			}
			// Who is told of hostPorts is portmap, or podfence, to report them.
			if own.Capabilities["portMappings"] == chained || chained && !fields.Plugins[1].Capabilities["portMappings"] {
				t.Errorf("capabilities: %s", text)
			}
			if note := places.HostPorts().Note(); !strings.Contains(note, c.note) || (note == "") != (c.note == "") {
				t.Errorf("note %q, want %q in it", note, c.note)
			}
		})
	}
}

// TestPortMapIsAskedOnce: each minute there is a publication, and each change of a Node
// brings one.
// A portmap plugin that does not answer now is not left out of a list that has it: pods
// that end meanwhile would leave their hostPorts behind.
func TestPortMapAwayForAMoment(t *testing.T) {
	conf, dir := t.TempDir(), t.TempDir()
	plugin := filepath.Join(t.TempDir(), "podfence-cni")
	portmap := func(script string) {
		t.Helper()
		for path, text := range map[string]string{plugin: "plugin", filepath.Join(dir, "new"): "#!/bin/sh\n" + script} {
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "portmap")); err != nil {
			t.Fatal(err)
		}
	}
	publish := func(places *install.Places) (string, error) {
		err := places.Publish(install.Conf{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}})
		text, _ := os.ReadFile(filepath.Join(conf, install.ConflistName))
		return string(text), err
	}
	portmap("exit 1\n")
	if text, err := publish(&install.Places{ConfDir: conf, BinDir: dir, Plugin: plugin}); err != nil || strings.Contains(text, `"portmap"`) {
		t.Errorf("without a list yet: %v\n%s", err, text)
	}
	portmap("echo '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}'\n")
	with, err := publish(&install.Places{ConfDir: conf, BinDir: dir, Plugin: plugin})
	if err != nil || !strings.Contains(with, `"portmap"`) {
		t.Fatalf("with one that answers: %v\n%s", err, with)
	}
	// One that is being written cannot be executed. After some tries it is left out.
	busy, err := os.OpenFile(filepath.Join(dir, "portmap"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	places := install.Places{ConfDir: conf, BinDir: dir, Plugin: plugin}
	for i := range 4 {
		text, err := publish(&places)
		if kept := text == with && err != nil; kept != (i < 2) {
			t.Errorf("try %d: %v\n%s", i, err, text)
		}
	}
}

func TestPortMapIsAskedOnce(t *testing.T) {
	dir := t.TempDir()
	places := install.Places{BinDir: dir}
	asked := filepath.Join(dir, "asked")
	script := "#!/bin/sh\necho x >> " + asked + "\necho '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}'\n"
	for i := range 2 {
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "portmap")); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if ports := places.HostPorts(); ports.Without != "" {
				t.Fatal(ports.Without)
			}
		}
		if times, err := os.ReadFile(asked); err != nil || strings.Count(string(times), "x") != i+1 {
			t.Errorf("after %d plugins it was asked %q (%v)", i+1, times, err)
		}
	}
}
