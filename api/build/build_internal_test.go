package build

import (
	"maps"
	"runtime"
	"runtime/debug"
	"testing"
)

// TestOf: what the linker was told comes before what Go has noted, and either without the other is enough.
func TestOf(t *testing.T) {
	noted := &debug.BuildInfo{
		Main: debug.Module{Path: "github.com/podfence/podfence", Version: "v1.2.4-0.20260301120000-0123456789ab+dirty"},
		Deps: []*debug.Module{
			{Path: "k8s.io/api", Version: "v0.37.2"},
			{Path: "github.com/spf13/cobra", Version: "v1.0.0"},
			{Path: "github.com/google/nftables", Version: "v0.3.0", Replace: &debug.Module{Path: "./bin/nftables32"}},
		},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-03-01T12:00:00Z"}, {Key: "vcs.modified", Value: "true"}},
	}
	modules := map[string]string{"k8s.io/api": "v0.37.2", "github.com/google/nftables": "./bin/nftables32"}
	for _, c := range []struct {
		name                  string
		version, commit, date string
		noted                 *debug.BuildInfo
		want                  Info
	}{
		{"by make", "v1.2.3", "fedcba", "2026-02-01T12:00:00Z", noted, Info{Version: "v1.2.3", Commit: "fedcba", Date: "2026-02-01T12:00:00Z", Modified: false, Modules: modules}},
		{"by make, of a tree with changes", "fedcba-dirty-1234", "fedcba-dirty", "2026-02-01T12:00:00Z", nil, Info{Version: "fedcba-dirty-1234", Commit: "fedcba", Date: "2026-02-01T12:00:00Z", Modified: true}},
		{"by go install", "dev", "", "", noted, Info{Version: noted.Main.Version, Commit: "0123456789abcdef", Date: "2026-03-01T12:00:00Z", Modified: true, Modules: modules}},
		{"of no repository", "dev", "", "", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, Info{Version: "dev"}},
	} {
		got := of(c.version, c.commit, c.date, c.noted)
		if got.GoVersion != runtime.Version() || got.Platform != runtime.GOOS+"/"+runtime.GOARCH {
			t.Errorf("%s: %+v", c.name, got)
		}
		if got.Version != c.want.Version || got.Commit != c.want.Commit || got.Date != c.want.Date || got.Modified != c.want.Modified || !maps.Equal(got.Modules, c.want.Modules) {
			t.Errorf("%s: it is %+v, not %+v", c.name, got, c.want)
		}
	}
}

func TestText(t *testing.T) {
	full := Info{
		Version: "v1.2.3", Commit: "fedcba", Modified: true, Date: "2026-02-01T12:00:00Z", GoVersion: "go1.26.1", Platform: "linux/amd64",
		Modules: map[string]string{"sigs.k8s.io/controller-runtime": "v0.25.2", "k8s.io/api": "v0.37.2"},
	}
	for want, got := range map[string]string{
		`podfence version v1.2.3
  commit:  fedcba with changes that are not committed
  date:    2026-02-01T12:00:00Z
  go:      go1.26.1 linux/amd64
  modules: k8s.io/api v0.37.2
           sigs.k8s.io/controller-runtime v0.25.2
`: full.Text("podfence", "  "),
		"podfence version dev\n": Info{Version: "dev"}.Text("podfence", "  "),
		"v1.2.3 (commit fedcba with changes that are not committed, of 2026-02-01T12:00:00Z, go1.26.1, linux/amd64)": full.Line(),
		"dev (go1.26.1, linux/amd64)": Info{Version: "dev", GoVersion: "go1.26.1", Platform: "linux/amd64"}.Line(),
	} {
		if got != want {
			t.Errorf("it is\n%s\nnot\n%s", got, want)
		}
	}
}
