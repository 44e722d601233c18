package build

import (
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// APIVersion is the version of the JSON in which programs print an Info.
const APIVersion = "version.podfence.io/v1"

// Info is what a program was built of. Within a version of the API that has it, fields are added, and none is
// removed or changes its meaning.
type Info struct {
	// Version is the tag of the release, such as v1.2.3. Of what was built from a tree that is none it is what
	// release/version.sh says of that: the release before, the commits since, the commit, and a checksum of what is
	// not committed; or "dev", if nobody has asked it.
	Version string `json:"version"`
	// Commit is the commit in hexadecimal digits; empty: it is not known. Modified: what was built has changes that
	// are in no commit.
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	// Date is when the commit was made, in UTC, as RFC 3339 has it; empty: it is not known. It is not when
	// the program was built: the same commit makes the same octets whenever it is built.
	Date string `json:"date,omitempty"`
	// GoVersion is that of Go, such as go1.26.1, and Platform the operating system and architecture that the
	// program is for: linux/amd64.
	GoVersion string `json:"goVersion,omitempty"`
	Platform  string `json:"platform,omitempty"`
	// Modules are the versions of the modules by which the program talks to Kubernetes, container runtimes and the
	// kernel, by path, those that are in it.
	Modules map[string]string `json:"modules,omitempty"`
}

// Version is an Info as podfence version prints it as JSON and YAML.
type Version struct {
	APIVersion string `json:"apiVersion"` // the constant APIVersion
	Kind       string `json:"kind"`       // Version
	Info       `json:",inline"`
}

// Set when a program is linked (GO_BUILD in the Makefile): of what Go itself notes, releases have nothing, as they
// are also built from copies of the source that are in no repository. A commit may end in modifiedEnd.
var commit, date string

const modifiedEnd = "-dirty"

// modules are those that Info tells of.
var modules = []string{
	"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go", "sigs.k8s.io/controller-runtime", "sigs.k8s.io/network-policy-api",
	"github.com/containernetworking/cni", "github.com/google/nftables",
}

// Of is what the program that runs was built of. The version is the one that its build has set; it is "dev" if it
// has set none.
func Of(version string) Info {
	noted, _ := debug.ReadBuildInfo() // it is there in all that Go builds with modules
	return of(version, commit, date, noted)
}

func of(version, commit, date string, noted *debug.BuildInfo) Info {
	info := Info{Version: version, Commit: strings.TrimSuffix(commit, modifiedEnd), Date: date, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info.Modified = info.Commit != commit
	if noted == nil {
		return info
	}
	if info.Version == "dev" && strings.HasPrefix(noted.Main.Version, "v") { // go install …@v1.2.3, or go build in a repository
		info.Version = noted.Main.Version
	}
	if commit == "" {
		for _, setting := range noted.Settings {
			switch setting.Key {
			case "vcs.revision":
				info.Commit = setting.Value
			case "vcs.time":
				info.Date = setting.Value
			case "vcs.modified":
				info.Modified = setting.Value == "true"
			}
		}
	}
	for _, module := range noted.Deps {
		if !slices.Contains(modules, module.Path) {
			continue
		}
		if info.Modules == nil {
			info.Modules = map[string]string{}
		}
		info.Modules[module.Path] = module.Version
		if by := module.Replace; by != nil {
			info.Modules[module.Path] = strings.TrimSpace(by.Path + " " + by.Version)
		}
	}
	return info
}

// Line is all of it in one line, but for the modules.
func (i Info) Line() string {
	details := make([]string, 0, 4)
	if i.Commit != "" {
		details = append(details, "commit "+i.Commit+i.changes())
	}
	if i.Date != "" {
		details = append(details, "of "+i.Date)
	}
	return i.Version + " (" + strings.Join(append(details, i.GoVersion, i.Platform), ", ") + ")"
}

// Text is all of it for people, in lines that begin with prefix; the first has the name of the program and its
// version alone.
func (i Info) Text(name, prefix string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s version %s\n", name, i.Version)
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s%-9s%s\n", prefix, what+":", value)
		}
	}
	line("commit", i.Commit+i.changes())
	line("date", i.Date)
	line("go", strings.TrimSpace(i.GoVersion+" "+i.Platform))
	for n, path := range slices.Sorted(maps.Keys(i.Modules)) {
		what := "modules:"
		if n > 0 {
			what = ""
		}
		fmt.Fprintf(&b, "%s%-9s%s %s\n", prefix, what, path, i.Modules[path])
	}
	return b.String()
}

// changes says that there are some.
func (i Info) changes() string {
	if i.Modified {
		return " with changes that are not committed"
	}
	return ""
}
