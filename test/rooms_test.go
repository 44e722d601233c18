// Package test holds what spans rooms. Here: who may import what.
package test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/test/inputs"
)

const module = "github.com/podfence/podfence"

// rules are the project's one-way streets: what the packages of a room must
// not import, by prefix. "!" lifts a ban for what it names. The room that has the
// module's own name is the package main alone.
var rules = []struct {
	room   string
	banned []string
}{
	// The program is the command line, and that puts the rooms together. It takes nothing
	// along that is for tests.
	{module, []string{module, "!" + module + "/cli"}},
	{module + "/cli", []string{module, "!" + module + "/cli", "!" + module + "/api/build", "!" + module + "/agent", "!" + module + "/controllers", "!" + module + "/cni", "!" + module + "/manifests", "!" + module + "/policy", "!" + module + "/ruleset", "!" + module + "/ruleset/kernel"}},
	// Two pods' question whether policy holds between them: TCP, and nothing of Kubernetes.
	{module + "/cli/connectivity", []string{module, "github.com", "k8s.io", "sigs.k8s.io"}},
	// podfence's own API objects: what the API server knows of them, and nothing of podfence.
	{module + "/api", []string{module, "github.com", "go4.org", "golang.org", "k8s.io", "!k8s.io/apimachinery", "sigs.k8s.io", "!" + module + "/api/build"}},
	// Files to API objects, for whoever wants them: nothing of the agent.
	{module + "/manifests", []string{module, "!" + module + "/policy", "!" + module + "/api", "net/http", "github.com/go-logr", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
	// Questions about policies: pure as well.
	{module + "/explain", []string{module, "!" + module + "/explain", "!" + module + "/policy", "!" + module + "/api", "os", "log", "net/http", "github.com/go-logr", "k8s.io/client-go", "sigs.k8s.io/controller-runtime", "golang.org/x/sys"}},
	// Questions and answers are for programs on every platform.
	{module + "/api/build", []string{module, "github.com", "go4.org", "golang.org", "k8s.io", "sigs.k8s.io"}},
	{module + "/api/answers", []string{module, "github.com", "go4.org", "golang.org", "k8s.io", "sigs.k8s.io", "!" + module + "/api/build"}},
	{module + "/api/flows", []string{module, "github.com", "go4.org", "golang.org", "k8s.io", "sigs.k8s.io"}},
	// Draws graphs, whatever they are about.
	{module + "/explain/graph", []string{module, "github.com", "k8s.io", "sigs.k8s.io"}},
	// Pure: objects and tables as values. No client, logger, kernel or files.
	{module + "/policy", []string{module, "!" + module + "/policy", "!" + module + "/api", "os", "log", "net/http", "github.com/go-logr", "k8s.io/client-go", "sigs.k8s.io/controller-runtime", "github.com/google/nftables", "github.com/vishvananda", "github.com/mdlayher", "golang.org/x/sys"}},
	// What a packet is: for rooms that know Kubernetes and for rooms that don't.
	{module + "/policy/packet", []string{module, "github.com", "go4.org", "golang.org", "k8s.io", "sigs.k8s.io"}},
	// From packets to resolutions. Pure: it gets packets as values, and neither asks nor listens.
	// Asks resolvers, wherever they come from and whatever the answers are for.
	{module + "/names/resolver", []string{module, "os", "log", "github.com", "!" + module + "/names/dns", "!" + module + "/policy", "golang.org/x/sys", "k8s.io", "sigs.k8s.io"}},
	{module + "/names/dns", []string{module, "net", "!net/netip", "os", "log", "github.com", "!" + module + "/policy", "golang.org/x/sys", "k8s.io", "sigs.k8s.io"}},
	{module + "/ruleset", []string{module, "!" + module + "/policy", "!" + module + "/api/flows", "!" + module + "/ruleset", "os", "log", "net/http", "github.com/go-logr", "k8s.io", "sigs.k8s.io"}},
	// nftables' own things, whatever they are for.
	{module + "/ruleset/nft", []string{module, "!" + module + "/policy/packet", "os", "k8s.io", "sigs.k8s.io", "github.com/google/nftables", "github.com/vishvananda", "github.com/mdlayher", "golang.org/x/sys"}},
	// No netlink, and no way around the Kernel interface.
	{module + "/controllers", []string{
		module + "/cli", module + "/agent", module + "/ruleset/kernel", module + "/cni/plugin", module + "/cni/install", module + "/test",
		module + "/controllers/clusterstatus",
		"github.com/google/nftables", "github.com/vishvananda", "github.com/mdlayher", "golang.org/x/sys",
	}},
	// A program of its own: it knows what policies say, and nothing of nodes and agents. How it reads
	// again what a watch has sent in part it has in common with the agent.
	{module + "/controllers/clusterstatus", []string{module, "!" + module + "/policy", "!" + module + "/controllers/relist"}},
	{module + "/controllers/relist", []string{module, "k8s.io/api", "sigs.k8s.io"}},
	// Changes in, outcomes out: the enforcer neither watches an API nor says what has come of it.
	{module + "/controllers/enforcer", []string{
		module + "/controllers", "!" + module + "/controllers/enforcer", module + "/api", "github.com/go-logr", "github.com/prometheus",
		"k8s.io/api", "k8s.io/client-go", "sigs.k8s.io",
	}},
	// Whoever reports reads outcomes, and feeds nothing.
	{module + "/controllers/report", []string{module + "/controllers", "!" + module + "/controllers/report", "!" + module + "/controllers/enforcer"}},
	// The others have the enforcer and the reports, and not each other.
	{module + "/controllers/attachments", besides("attachments")},
	{module + "/controllers/announcements", besides("announcements")},
	{module + "/controllers/answers", append(besides("answers"), "!"+module+"/controllers/observer")},
	{module + "/controllers/observer", besides("observer")},
	{module + "/controllers/hubble", append(besides("hubble"), "!"+module+"/controllers/observer")},
	{module + "/controllers/network", besides("network")},
	{module + "/controllers/names", besides("names")},
	{module + "/controllers/folder", append(besides("folder"), "!"+module+"/controllers/nodes")},
	// A Service's objects become addresses, for whoever wants them.
	{module + "/controllers/resolvers", []string{module, "!" + module + "/policy"}},
	{module + "/controllers/nodes", []string{module + "/controllers", "!" + module + "/controllers/nodes"}},
	// What policies say and cannot mean. Pure: a cluster as a value, findings as values.
	{module + "/explain/lint", []string{module, "!" + module + "/explain", "!" + module + "/policy", "!" + module + "/api", "os", "log", "net/http", "time", "github.com/go-logr", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
	// NetworkPolicies by what was seen. Pure: flows as values in, policies as values out.
	{module + "/explain/generate", []string{module, "!" + module + "/explain", "!" + module + "/policy", "!" + module + "/api", "os", "log", "net/http", "time", "github.com/go-logr", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
	// The agent puts the rooms together, for the command line and for tests.
	{module + "/agent", []string{module + "/cli", module + "/test", module + "/controllers/clusterstatus"}},
	// The kernel room carries out what it is given, and knows neither what podfence's tables
	// mean nor clusters' APIs. Which sets and chains of podfence's it reads back, it is told.
	{module + "/ruleset/kernel", []string{module, "!" + module + "/ruleset/kernel", "!" + module + "/ruleset/nft", "!" + module + "/policy/packet", "k8s.io", "sigs.k8s.io", "github.com/vishvananda"}},
	// What the kernel has is read by the room above; here it is run, whoever has made it.
	{module + "/ruleset/kernel/bytecode", []string{module, "!" + module + "/ruleset/nft", "!" + module + "/policy/packet", "os", "net/http", "github.com/google/nftables/expr"}},
	// The CNI rooms know links and files, not clusters and not tables.
	{module + "/cni", []string{module, "!" + module + "/cni", "!" + module + "/api/build", "net/http", "k8s.io", "sigs.k8s.io", "github.com/google/nftables", "github.com/mdlayher"}},
	// The plugin is a process of its own: it has the agent by the handshake alone.
	{module + "/cni/plugin", []string{module + "/cni/node", module + "/cni/install"}},
	{module + "/cni/handshake", []string{module, "!" + module + "/cni/handshake", "github.com/vishvananda", "github.com/containernetworking"}},
	// The plugin asks: it has what questions are answered by, and nothing of what runs on nodes.
	{module + "/kubectl-podfence", []string{
		module, "!" + module + "/kubectl-podfence", "!" + module + "/explain", "!" + module + "/manifests", "!" + module + "/policy", "!" + module + "/api",
		"sigs.k8s.io/controller-runtime", "golang.org/x/sys", "github.com/mdlayher",
	}},
	// What reads a cluster and what asks agents have no command line, and do not know each other.
	{module + "/kubectl-podfence/cluster", []string{module + "/kubectl-podfence", "!" + module + "/kubectl-podfence/cluster", "github.com/spf13", "k8s.io/cli-runtime"}},
	{module + "/kubectl-podfence/agents", []string{module + "/kubectl-podfence", "!" + module + "/kubectl-podfence/agents", module + "/explain", "github.com/spf13", "k8s.io/cli-runtime"}},
	// The page is given what it shows.
	{module + "/kubectl-podfence/ui", []string{module + "/kubectl-podfence", "!" + module + "/kubectl-podfence/ui", "k8s.io/client-go", "github.com/spf13", "k8s.io/cli-runtime"}},
	// The demo uses the lab, and is no test.
	{module + "/test/lab", []string{module + "/ruleset", module + "/controllers", "testing"}},
	{module + "/test/demo", []string{"testing"}},
}

// besides are the rooms of controllers that one of them must not import.
func besides(room string) []string {
	c := module + "/controllers"
	return []string{c, "!" + c + "/" + room, "!" + c + "/enforcer", "!" + c + "/report"}
}

// only are libraries, and rooms, that one room alone may use.
var only = map[string][]string{
	"github.com/google/nftables":     {module + "/ruleset/kernel"},
	"github.com/mdlayher/netlink":    {module + "/ruleset/kernel"},
	"github.com/vishvananda/netlink": {module + "/cni", module + "/test"},
	"github.com/containernetworking": {module + "/cni", module + "/test"},
	"github.com/cilium/cilium":       {module + "/controllers/hubble"},
	"google.golang.org/grpc":         {module + "/controllers/hubble"},
	"k8s.io/cli-runtime":             {module + "/kubectl-podfence"},
	"github.com/chromedp":            {module + "/test/page", module + "/test/ui"},
	module + "/kubectl-podfence":     {module + "/kubectl-podfence"},
}

// binaries are the programs that are handed out, as make and the Dockerfile build them, with what they do not link in, by whatever
// package, and one that they do. The agent is privileged, and takes nothing along that is for
// tests. The CNI plugin runs for every pod, which pays for it at each start. That of kubectl runs on
// its user's machine, whatever that is, and needs no privilege.
var binaries = []struct {
	program, has string
	not          []string
}{
	{module, module + "/controllers", []string{module + "/test", "testing", "github.com/cilium/cilium/pkg", "html/template"}},
	{module + "/cni/podfence-cni", module + "/cni/handshake", notInPlugin},
	{module + "/kubectl-podfence", module + "/explain", notInKubectl},
}

var notInPlugin = []string{"net/http", "k8s.io/client-go", "k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/controller-runtime", module + "/policy", module + "/ruleset", module + "/controllers"}

var notInKubectl = []string{
	"github.com/google/nftables", "github.com/mdlayher", "github.com/vishvananda", "github.com/containernetworking", "sigs.k8s.io/controller-runtime",
	module + "/agent", module + "/cli", module + "/cni", module + "/controllers", module + "/ruleset", module + "/test", "testing",
}

func TestRooms(t *testing.T) {
	if err := inputs.Packages(module + "/..."); err != nil {
		t.Fatal(err)
	}
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
		{module, module + "/controllers"},
		{module, module + "/policy"},
		{module, module + "/ruleset/kernel"},
		{module, module + "/test/check"},
		{module + "/cli", module + "/test/check"},
		{module + "/cli", "github.com/google/nftables"},
		{module + "/cli/connectivity", module + "/policy"},
		{module + "/cli/connectivity", "k8s.io/client-go/kubernetes"},
		{module + "/cli", "github.com/vishvananda/netlink"},
		{module + "/policy", module + "/cli"},
		{module + "/ruleset", module + "/cli"},
		{module + "/ruleset/kernel", module + "/cli"},
		{module + "/controllers", module + "/cli"},
		{module + "/cni/node", module + "/cli"},
		{module + "/api/v1alpha1", module + "/policy"},
		{module + "/api/v1alpha1", "k8s.io/api/core/v1"},
		{module + "/api/v1alpha1", "sigs.k8s.io/controller-runtime/pkg/scheme"},
		{module + "/api/answers", "k8s.io/apimachinery/pkg/types"},
		{module + "/api/answers", module + "/api/v1alpha1"},
		{module + "/api/build", module + "/api/answers"},
		{module + "/cni/podfence-cni", module + "/api/answers"},
		{module + "/cli", module + "/api/v1alpha1"},
		{module + "/policy/packet", module + "/api/v1alpha1"},
		{module + "/ruleset", module + "/api/v1alpha1"},
		{module + "/cni/handshake", module + "/api/v1alpha1"},
		{module + "/policy", module + "/ruleset"},
		{module + "/ruleset", module + "/manifests"},
		{module + "/policy/packet", module + "/policy"},
		{module + "/policy/packet", "k8s.io/api/core/v1"},
		{module + "/controllers/names", module + "/ruleset/kernel"},
		{module + "/controllers/resolvers", module + "/controllers/enforcer"},
		{module + "/controllers/resolvers", module + "/names/resolver"},
		{module + "/names/resolver", module + "/controllers/resolvers"},
		{module + "/names/resolver", module + "/ruleset"},
		{module + "/names/resolver", "k8s.io/client-go/rest"},
		{module + "/names/dns", module + "/names/resolver"},
		{module + "/names/dns", "net"},
		{module + "/names/dns", "k8s.io/api/core/v1"},
		{module + "/names/dns", "github.com/mdlayher/netlink"},
		{module + "/names/dns", module + "/ruleset/nft"},
		{module + "/policy", module + "/names/dns"},
		{module + "/ruleset", module + "/names/dns"},
		{module + "/ruleset", "github.com/google/nftables/expr"},
		{module + "/ruleset", module + "/ruleset/kernel"},
		{module + "/ruleset/nft", module + "/policy"},
		{module + "/ruleset/nft", module + "/ruleset"},
		{module + "/ruleset/nft", "k8s.io/apimachinery/pkg/types"},
		{module + "/ruleset/nft", "sigs.k8s.io/yaml"},
		{module + "/ruleset/nft", "os"},
		{module + "/ruleset/nft", "github.com/mdlayher/netlink"},
		{module + "/ruleset/kernel", module + "/ruleset"},
		{module + "/ruleset/kernel", module + "/policy"},
		{module + "/ruleset/kernel/bytecode", module + "/ruleset/kernel"},
		{module + "/ruleset/kernel", "k8s.io/api/core/v1"},
		{module + "/controllers", module + "/agent"},
		{module + "/controllers/enforcer", module + "/controllers/report"},
		{module + "/controllers/enforcer", "github.com/go-logr/logr"},
		{module + "/controllers/enforcer", "github.com/prometheus/client_golang/prometheus"},
		{module + "/controllers/enforcer", "k8s.io/api/core/v1"},
		{module + "/controllers/enforcer", module + "/api/v1alpha1"},
		{module + "/controllers/report", module + "/controllers"},
		{module + "/controllers/report", module + "/controllers/network"},
		{module + "/controllers/attachments", module + "/controllers"},
		{module + "/controllers/announcements", module + "/controllers"},
		{module + "/controllers/announcements", module + "/controllers/attachments"},
		{module + "/controllers/attachments", module + "/controllers/announcements"},
		{module + "/controllers/answers", module + "/controllers/attachments"},
		{module + "/controllers/answers", module + "/ruleset/kernel/bytecode"},
		{module + "/controllers/network", module + "/controllers/attachments"},
		{module + "/manifests", module + "/controllers/enforcer"},
		{module + "/explain", module + "/manifests"},
		{module + "/explain/graph", module + "/explain"},
		{module + "/controllers/nodes", module + "/controllers/enforcer"},
		{module + "/controllers", module + "/controllers/clusterstatus"},
		{module + "/controllers/report", module + "/controllers/clusterstatus"},
		{module + "/controllers/clusterstatus", module + "/controllers"},
		{module + "/controllers/relist", module + "/policy"},
		{module + "/controllers/clusterstatus", module + "/controllers/report"},
		{module + "/controllers/clusterstatus", module + "/agent"},
		{module + "/controllers/clusterstatus", module + "/ruleset"},
		{module + "/explain/lint", module + "/ruleset"},
		{module + "/explain/lint", module + "/controllers/report"},
		{module + "/explain/lint", "time"},
		{module + "/explain/lint", "k8s.io/client-go/kubernetes"},
		{module + "/agent", module + "/controllers/clusterstatus"},
		{module + "/agent", module + "/cli"},
		{module + "/agent", module + "/test/check"},
		{module + "/controllers", module + "/ruleset/kernel"},
		{module + "/manifests", "github.com/vishvananda/netlink"},
		{module + "/controllers", "github.com/containernetworking/cni/pkg/types"},
		{module + "/controllers", module + "/cni/plugin"},
		{module + "/cni/node", module + "/policy"},
		{module + "/cni/plugin", module + "/cni/node"},
		{module + "/cni/handshake", module + "/cni/plugin"},
		{module + "/kubectl-podfence", module + "/controllers"},
		{module + "/kubectl-podfence/commands", module + "/ruleset"},
		{module + "/kubectl-podfence/commands", module + "/ruleset/kernel"},
		{module + "/kubectl-podfence/cluster", module + "/kubectl-podfence/commands"},
		{module + "/kubectl-podfence/agents", module + "/kubectl-podfence/cluster"},
		{module + "/kubectl-podfence/agents", module + "/test/check"},
		{module + "/controllers", module + "/kubectl-podfence/cluster"},
		{module + "/cli", module + "/kubectl-podfence/commands"},
		{module + "/agent", module + "/kubectl-podfence/agents"},
		{module + "/explain", module + "/kubectl-podfence/commands"},
		{module + "/policy", module + "/kubectl-podfence/commands"},
	} {
		if broken(bad[0], bad[1]) == "" {
			t.Errorf("%s may import %s: the rules have a hole", bad[0], bad[1])
		}
	}
}

// TestBinaries: the programs hold what they need where they run, and no more.
func TestBinaries(t *testing.T) {
	for _, b := range binaries {
		if err := inputs.Packages(b.program); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("go", "list", "-tags", "grpcnotrace", "-deps", b.program).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, b.has) {
			t.Errorf("%s does not depend on %s: these are not its dependencies", b.program, b.has)
		}
		for _, dep := range deps {
			for _, banned := range b.not {
				if in(dep, banned) {
					t.Errorf("%s links %s in", b.program, dep)
				}
			}
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
	const kernel = module + "/ruleset/kernel"
	for _, rule := range rules {
		// The kernel room has rules of its own, not ruleset's, and what is below the module
		// does not have main's.
		if !in(importer, rule.room) || rule.room == module+"/ruleset" && in(importer, kernel) || rule.room == module && importer != module {
			continue
		}
		banned := ""
		for _, prefix := range rule.banned {
			if lifted, is := strings.CutPrefix(prefix, "!"); is {
				// What lifts the ban of ruleset leaves the kernel room's.
				if in(imported, lifted) && (in(lifted, kernel) || !in(imported, kernel)) {
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
