package install_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/install"
)

const (
	flannel = `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"flannel"},{"type":"portmap"}]}`
	chained = `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"flannel"},{"type":"podfence","mode":"chained"}]}`
	multus  = `{"name":"multus-cni-network","type":"multus","delegates":[{"name":"podfence","plugins":[{"type":"podfence"}]}]}`
	// Thick Multus names the network's file instead.
	thick = `{"name":"multus-cni-network","type":"multus-shim","clusterNetwork":"/host/etc/cni/net.d/10-podfence.conflist"}`
)

// What sorts before podfence's configuration is the network of all pods: it must be said,
// by the file's name, unless podfence is called by it.
func TestShadowed(t *testing.T) {
	for _, c := range []struct {
		file, text string
		dir        bool
		want       bool
	}{
		{"10-flannel.conflist", flannel, false, true},
		{"10-containerd-net.conflist", `{"name":"containerd-net","plugins":[{"type":"bridge"}]}`, false, true},
		{"05-bridge.conf", `{"name":"bridge","type":"bridge"}`, false, true},
		{"05-bridge.json", `{"name":"bridge","type":"bridge"}`, false, true},
		{"05-broken.conflist", `{"name":`, false, true}, // the runtime stops at it
		{"05-empty.conflist", ``, false, true},
		{"05-called.conflist", `{"name":"podfence","plugins":[{"type":"bridge"}]}`, false, true},
		{"10-Podfence.conflist", flannel, false, true}, // by bytes, not by letters
		{"10-chained.conflist", chained, false, true},  // with bridge nobody answers its call
		{"00-multus.conf", multus, false, false},
		{"00-multus.conf", thick, false, false},
		{"00-multus.conf", `{"name":"m","type":"multus","clusterNetwork":"podfence"}`, false, false},
		{"00-multus.conf", `{"name":"m","type":"multus","clusterNetwork":"cbr0"}`, false, true},
		{"00-multus.conf", `{"name":"m","type":"multus","clusterNetwork":"/etc/cni/net.d/10-podfence.conflist"}`, false, false},
		{"00-multus.conf", `{"name":"m","type":"multus","delegates":[` + chained + `]}`, false, true},
		{"87-podman.conflist", flannel, false, false},
		{"10-podfence.conflist.bak", flannel, false, false},
		{"05-old.conflist.disabled", flannel, false, false},
		{".05-x.conflist.1.unfinished", flannel, false, false},
		{"05-folder.conflist", "", true, false},
	} {
		t.Run(c.file+" "+c.text, func(t *testing.T) {
			dir := t.TempDir()
			own := ownConflist(t)
			if _, err := install.WriteConflist(dir, install.ConflistName, own); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, c.file)
			var err error
			if c.dir {
				err = os.Mkdir(path, 0o755)
			} else {
				err = os.WriteFile(path, []byte(c.text), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			err = install.Shadowed(dir, install.ConflistName)
			if c.want != (err != nil) {
				t.Fatalf("shadowed is %v", err)
			}
			if c.want && (!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--cni-conf-name")) {
				t.Errorf("it does not say which file, and what to do: %v", err)
			}
			if err := install.Shadowed(dir, "00-first.conflist"); err != nil && c.file != "00-multus.conf" {
				t.Errorf("the first is shadowed: %v", err)
			}
		})
	}
	if err := install.Shadowed(filepath.Join(t.TempDir(), "none"), install.ConflistName); err != nil {
		t.Errorf("no folder: %v", err)
	}
}

// Behind another plugin, podfence must be called by what the runtime takes.
func TestUnchained(t *testing.T) {
	own := string(ownConflist(t))
	for name, c := range map[string]struct {
		files map[string]string
		bad   string
	}{
		"none yet":             {nil, ""},
		"chained":              {map[string]string{"10-flannel.conflist": chained}, ""},
		"not chained":          {map[string]string{"10-flannel.conflist": flannel}, "10-flannel.conflist"},
		"another first":        {map[string]string{"10-flannel.conflist": chained, "05-x.conflist": flannel}, "05-x.conflist"},
		"another behind it":    {map[string]string{"10-flannel.conflist": chained, "87-podman.conflist": flannel}, ""},
		"podfence's own":       {map[string]string{"10-podfence.conflist": own}, ""},
		"Multus, by its name":  {map[string]string{"00-multus.conf": `{"type":"multus","clusterNetwork":"cbr0"}`, "10-flannel.conflist": chained}, ""},
		"Multus, by its path":  {map[string]string{"00-multus.conf": `{"type":"multus","clusterNetwork":"/host/etc/cni/net.d/10-flannel.conflist"}`, "10-flannel.conflist": chained}, ""},
		"Multus, of another's": {map[string]string{"00-multus.conf": `{"type":"multus","clusterNetwork":"cbr0"}`, "10-flannel.conflist": flannel}, "00-multus.conf"},
		"broken":               {map[string]string{"10-flannel.conflist": `{"plugins":`}, "10-flannel.conflist"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := install.Unchained(dir)
			if (c.bad != "") != (err != nil) || err != nil && !strings.Contains(err.Error(), filepath.Join(dir, c.bad)) {
				t.Errorf("it says %v", err)
			}
		})
	}
}

func ownConflist(t *testing.T) []byte {
	t.Helper()
	text, err := install.Conflist(install.Conf{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}, withPortMap)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// With another name there is one configuration of podfence's, never none and never two
// for long; those of others stay.
func TestPublishUnderAnotherName(t *testing.T) {
	dir := t.TempDir()
	plugin := filepath.Join(t.TempDir(), "podfence-cni")
	other := filepath.Join(dir, "10-flannel.conflist")
	for path, text := range map[string]string{plugin: "plugin", other: chained} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	places := install.Places{ConfDir: dir, BinDir: t.TempDir(), Plugin: plugin}
	conf := install.Conf{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	for _, name := range []string{"", "00-podfence.conflist", "99-last.conflist", ""} {
		places.ConfName = name
		if err := places.Publish(conf); err != nil {
			t.Fatal(err)
		}
		if name == "" {
			name = install.ConflistName
		}
		all, err := install.Configurations(dir)
		want := []install.Configuration{{Name: "10-flannel.conflist", Calls: true, Chained: true}, {Name: name, Own: true, Calls: true}}
		slices.SortFunc(want, func(a, b install.Configuration) int { return strings.Compare(a.Name, b.Name) })
		if err != nil || !slices.Equal(all, want) {
			t.Errorf("as %s there are %v, %v", name, all, err)
		}
	}
	places.ConfName = "00-podfence.conflist"
	if err := places.Publish(conf); err != nil {
		t.Fatal(err)
	}
	if removed, err := install.RemoveConfigurations(dir); err != nil || !slices.Equal(removed, []string{filepath.Join(dir, "00-podfence.conflist")}) {
		t.Errorf("removed: %v, %v", removed, err)
	}
	if all, err := install.Configurations(dir); err != nil || len(all) != 1 || all[0].Name != "10-flannel.conflist" {
		t.Errorf("left are %v, %v", all, err)
	}
}
