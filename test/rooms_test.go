// Package test holds what spans rooms. Here: who may import what.
package test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/podfence/podfence"

// rules are the project's one-way streets: what the packages of a room must
// not import, by prefix. "!" lifts a ban for what it names.
var rules = []struct {
	room   string
	banned []string
}{
	// Pure: objects and tables as values. No client, logger, kernel or files.
	{module + "/policy", []string{module, "!" + module + "/policy", "os", "log", "net/http", "github.com/go-logr", "k8s.io/client-go", "sigs.k8s.io/controller-runtime", "github.com/google/nftables", "github.com/vishvananda", "github.com/mdlayher", "golang.org/x/sys"}},
	{module + "/ruleset", []string{module, "!" + module + "/policy", "!" + module + "/ruleset", "os", "log", "net/http", "github.com/go-logr", "k8s.io", "sigs.k8s.io"}},
	// No netlink, and no way around the Kernel interface.
	{module + "/controllers", []string{module + "/ruleset/kernel", module + "/test", "github.com/google/nftables", "github.com/vishvananda", "github.com/mdlayher", "golang.org/x/sys"}},
	// The kernel room knows tables, not clusters' APIs.
	{module + "/ruleset/kernel", []string{module + "/controllers", "k8s.io", "sigs.k8s.io", "github.com/vishvananda"}},
	// Only the command uses what is for tests and the demo.
	{module + "/test/lab", []string{module + "/ruleset", module + "/controllers", "testing"}},
	{module + "/test/demo", []string{"testing"}},
}

// only are libraries that one room alone may use.
var only = map[string][]string{
	"github.com/google/nftables":     {module + "/ruleset/kernel"},
	"github.com/mdlayher/netlink":    {module + "/ruleset/kernel"},
	"github.com/vishvananda/netlink": {module + "/cni", module + "/test"},
}

func TestRooms(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	checked := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		words := strings.Fields(line)
		for _, imported := range words[1:] {
			checked++
			if by := broken(words[0], imported); by != "" {
				t.Errorf("%s imports %s: %s", words[0], imported, by)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d imports seen", checked)
	}
	for _, bad := range [][2]string{
		{module + "/policy", module + "/ruleset"},
		{module + "/ruleset", module + "/controllers/manifests"},
		{module + "/ruleset", "github.com/google/nftables/expr"},
		{module + "/controllers", module + "/ruleset/kernel"},
		{module + "/controllers/manifests", "github.com/vishvananda/netlink"},
	} {
		if broken(bad[0], bad[1]) == "" {
			t.Errorf("%s may import %s: the rules have a hole", bad[0], bad[1])
		}
	}
}

// broken says which rule an import breaks.
func broken(importer, imported string) string {
	for library, rooms := range only {
		if !in(imported, library) {
			continue
		}
		allowed := false
		for _, room := range rooms {
			allowed = allowed || in(importer, room)
		}
		if !allowed {
			return library + " is for " + strings.Join(rooms, ", ") + " alone"
		}
	}
	for _, rule := range rules {
		// The kernel room has rules of its own, not ruleset's.
		if !in(importer, rule.room) || rule.room == module+"/ruleset" && in(importer, module+"/ruleset/kernel") {
			continue
		}
		banned := ""
		for _, prefix := range rule.banned {
			if lifted, is := strings.CutPrefix(prefix, "!"); is {
				if in(imported, lifted) && !in(imported, module+"/ruleset/kernel") {
					banned = ""
				}
			} else if in(imported, prefix) {
				banned = prefix
			}
		}
		if banned != "" {
			return "packages of " + rule.room + " must not import " + banned
		}
	}
	return ""
}

// in reports whether a package is a path or below it.
func in(pkg, path string) bool { return pkg == path || strings.HasPrefix(pkg, path+"/") }
