package install_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/podfence/podfence/cni/install"
)

var conf = install.Conf{
	PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
	MTU:      1450, Bridge: "podfence0", Socket: "/run/podfence/agent.sock", Timeout: 10,
}

// withPortMap and withoutPortMap are what nodes have.
var (
	withPortMap    = install.HostPorts{Versions: []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}}
	withoutPortMap = install.HostPorts{Without: "there is none"}
)

func conflist(t *testing.T, c install.Conf, ports install.HostPorts) []byte {
	t.Helper()
	text, err := install.Conflist(c, ports)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestConflist(t *testing.T) {
	const want = `{
  "cniVersion": "1.0.0",
  "cniVersions": [
    "1.0.0",
    "1.1.0"
  ],
  "name": "podfence",
  "plugins": [
    {
      "type": "podfence",
      "bridge": "podfence0",
      "podCIDRs": [
        "10.244.1.0/24",
        "fd00:10:244:1::/64"
      ],
      "mtu": 1450,
      "socket": "/run/podfence/agent.sock",
      "timeout": 10,
      "capabilities": {
        "bandwidth": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      },
      "snat": true
    }
  ]
}
`
	// The library of CNI 1.1 takes the later version; those before know one key.
	list, err := libcni.NetworkConfFromBytes(conflist(t, conf, withPortMap))
	if err != nil || list.CNIVersion != install.LatestCNIVersion {
		t.Errorf("read as version %v, %v", list, err)
	}
	if got := string(conflist(t, conf, withPortMap)); got != want {
		t.Errorf("not\n%s\nbut\n%s", want, got)
	}
	small := string(conflist(t, install.Conf{PodCIDRs: conf.PodCIDRs[:1]}, withoutPortMap))
	if !strings.Contains(small, `"noHostPort": "there is none"`) {
		t.Errorf("it is not said why there is no portmap: %s", small)
	}
	for _, key := range []string{`"type": "portmap"`, "mtu", "mode", "socket", "timeout", "dataDir", "bridge"} {
		if strings.Contains(small, key) {
			t.Errorf("%s is in %s", key, small)
		}
	}
	for want, cidrs := range map[string][]netip.Prefix{
		"no podCIDR":           nil,
		"10.0.0.1/24":          {netip.MustParsePrefix("10.0.0.1/24")},
		"invalid Prefix":       {{}},
		"second of its family": {netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24")},
	} {
		if _, err := install.Conflist(install.Conf{PodCIDRs: cidrs}, withoutPortMap); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestChain(t *testing.T) {
	const theirs = `{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap"}],"more":[1]}`
	once, err := install.Chain([]byte(theirs), conf)
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]any
	if err := json.Unmarshal(once, &list); err != nil {
		t.Fatal(err)
	}
	plugins := list["plugins"].([]any)
	own := plugins[2].(map[string]any)
	if len(plugins) != 3 || own["type"] != "podfence" || own["mode"] != "chained" || own["podCIDRs"] != nil {
		t.Error(string(once))
	}
	list["plugins"] = plugins[:2]
	var before map[string]any
	if err := json.Unmarshal([]byte(theirs), &before); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(list) != fmt.Sprint(before) {
		t.Errorf("theirs changed:\n%v\n%v", before, list)
	}
	if twice, err := install.Chain(once, conf); err != nil || !bytes.Equal(once, twice) {
		t.Errorf("%v\n%s", err, twice)
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"plugins":{}}`, `{"plugins":[3]}`, `{"plugins":[{"type":"podfence"}]}`} {
		if _, err := install.Chain([]byte(bad), conf); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestWriteConflist(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cni", "net.d")
	path := filepath.Join(dir, "10-podfence.conflist")
	text := conflist(t, conf, withoutPortMap)
	write := func(text []byte, want bool) {
		t.Helper()
		if changed, err := install.WriteConflist(dir, install.ConflistName, text); changed != want || err != nil {
			t.Errorf("changed %t, %v", changed, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%v: %s", err, got)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != 0o644 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%v, %v", entries, err)
		}
	}
	write(text, true)
	first, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	write(text, false)
	if again, err := os.Stat(path); err != nil || !os.SameFile(first, again) || !first.ModTime().Equal(again.ModTime()) {
		t.Errorf("written again: %v", err)
	}
	// Of the same size, shorter, with another mode.
	write(bytes.ReplaceAll(text, []byte("1450"), []byte("1500")), true)
	write(text[:100], true)
	write(text, true)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	write(text, true)
	// A link is replaced, not followed.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := errors.Join(os.WriteFile(elsewhere, text, 0o644), os.Remove(path), os.Symlink(elsewhere, path)); err != nil {
		t.Fatal(err)
	}
	write(text[:50], true)
	if got, err := os.ReadFile(elsewhere); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the link's target: %v, %s", err, got)
	}
	// What a killed process has left.
	left := filepath.Join(dir, ".10-podfence.conflist.123.unfinished")
	if err := errors.Join(os.WriteFile(left, nil, 0o600), os.Chtimes(left, time.Time{}, time.Now().Add(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	write(text[:50], false)
}

// TestAtomic reads while others write: each read finds a whole file.
func TestAtomic(t *testing.T) {
	dir := t.TempDir()
	texts := [][]byte{bytes.Repeat([]byte("a"), 300_000), bytes.Repeat([]byte("b"), 200_000)}
	if _, err := install.WriteConflist(dir, install.ConflistName, texts[0]); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for w := range 2 {
		wait.Go(func() {
			for i := range 50 {
				if _, err := install.WriteConflist(dir, install.ConflistName, texts[(i+w)%2]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wait.Wait(); close(done) }()
	for reads := 0; ; reads++ {
		got, err := os.ReadFile(filepath.Join(dir, install.ConflistName))
		if err != nil || !bytes.Equal(got, texts[0]) && !bytes.Equal(got, texts[1]) {
			t.Fatalf("%v, %d octets", err, len(got))
		}
		// What runtimes would take for a configuration or a plugin.
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != install.ConflistName && (!strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".unfinished")) {
				t.Fatal(e.Name())
			}
		}
		select {
		case <-done:
			t.Logf("%d reads", reads)
			return
		default:
		}
	}
}

func TestBinary(t *testing.T) {
	from := filepath.Join(t.TempDir(), "source")
	content := bytes.Repeat([]byte("podfence"), 100_000)
	if err := os.WriteFile(from, content, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "bin")
	for _, want := range []bool{true, false} {
		if changed, err := install.Binary(from, dir); changed != want || err != nil {
			t.Errorf("changed %t, %v", changed, err)
		}
	}
	path := filepath.Join(dir, "podfence")
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	// Who has it open, as a running plugin has, keeps it.
	running, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if err := os.WriteFile(from, content[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := install.Binary(from, dir); !changed || err != nil {
		t.Errorf("changed %t, %v", changed, err)
	}
	if old, err := running.Stat(); err != nil || old.Size() != int64(len(content)) {
		t.Errorf("%v, %v", old.Size(), err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content[1:]) {
		t.Errorf("%v, %d octets", err, len(got))
	}
	if _, err := install.Binary(filepath.Join(dir, "none"), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := install.Binary(from, from); err == nil {
		t.Error("a file for a folder: no error")
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "10-other.conflist")
	for _, name := range []string{other, filepath.Join(dir, "podfence"), filepath.Join(dir, ".podfence.7.unfinished")} {
		if err := os.WriteFile(name, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := install.WriteConflist(dir, install.ConflistName, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		for _, remove := range []func(string) ([]string, error){install.RemoveConfigurations, install.RemovePlugins} {
			if removed, err := remove(dir); len(removed) > 0 != want || err != nil {
				t.Errorf("removed %v, %v", removed, err)
			}
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if removed, err := install.RemovePlugins(filepath.Join(dir, "none")); len(removed) > 0 || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
}

// TestWriteSaysTheSame: what keeps a file from being written is said by its own name, in
// the same words each time.
func TestWriteSaysTheSame(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("a", 250) + ".conflist" // longer than a name may be
	var said []string
	for range 2 {
		_, err := install.WriteConflist(dir, long, []byte("{}"))
		if !errors.Is(err, syscall.ENAMETOOLONG) || !strings.Contains(err.Error(), filepath.Join(dir, long)) {
			t.Fatalf("it says %v", err)
		}
		said = append(said, err.Error())
	}
	if said[0] != said[1] {
		t.Errorf("first %s, then %s", said[0], said[1])
	}
}
