package cnp

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/network-policy-api/conformance"
	report "sigs.k8s.io/network-policy-api/conformance/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"

	"github.com/podfence/podfence/test/conformance/cnp/kubernetes"
)

// TestVersions: the suite is of the version of the API that podfence is built with.
func TestVersions(t *testing.T) {
	if own, podfence := version(t, "."), version(t, "../../.."); own != podfence {
		t.Errorf("the suite is of %s, podfence's API of %s", own, podfence)
	}
}

func version(t *testing.T, module string) string {
	t.Helper()
	// The test reads what the result depends on, so that Go caches no result of others.
	if _, err := os.ReadFile(filepath.Join(module, "go.mod")); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "-C", module, "list", "-m", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestOnlySCTP: the tests that are skipped where there is no SCTP are those without any
// other probe, in the suite's source; and each probe names its protocol in a way that the
// package kubernetes understands.
func TestOnlySCTP(t *testing.T) {
	probes := map[string]map[string]int{}
	files, err := conformance.Manifests.ReadDir("tests")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := conformance.Manifests.ReadFile("tests/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file.Name(), text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range parsed.Decls {
			variables, ok := declaration.(*ast.GenDecl)
			if !ok || variables.Tok != token.VAR {
				continue
			}
			for _, spec := range variables.Specs {
				name := spec.(*ast.ValueSpec).Names[0].Name
				ast.Inspect(spec, func(n ast.Node) bool {
					call, ok := n.(*ast.CallExpr)
					if !ok {
						return true
					}
					if callee, ok := call.Fun.(*ast.SelectorExpr); !ok || callee.Sel.Name != "PokeServer" {
						return true
					}
					protocol, err := strconv.Unquote(call.Args[5].(*ast.BasicLit).Value)
					if err != nil || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
						t.Errorf("%s: a probe by %q, %v", name, protocol, err)
					}
					if probes[name] == nil {
						probes[name] = map[string]int{}
					}
					probes[name][protocol]++
					return true
				})
			}
		}
	}
	var only []string
	for _, test := range tests.ConformanceTests {
		n := probes[test.ShortName]
		if len(n) == 0 {
			t.Errorf("no probe seen of %s", test.ShortName)
		}
		if n["sctp"] > 0 {
			t.Logf("%s: %d of %d by SCTP", test.ShortName, n["sctp"], n["sctp"]+n["tcp"]+n["udp"])
		}
		if len(n) == 1 && n["sctp"] > 0 {
			only = append(only, test.ShortName)
		}
	}
	slices.Sort(only)
	if !slices.Equal(only, onlySCTP) {
		t.Errorf("only SCTP: %q; onlySCTP is %q", only, onlySCTP)
	}
}

// TestServersDropped: of the suite's pods those containers go that serve SCTP, and no others.
func TestServersDropped(t *testing.T) {
	text, err := conformance.Manifests.ReadFile("base/manifests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var filled bytes.Buffer
	ports := map[string]any{"HostNetworkPorts": []int{1, 2, 3, 4, 5, 6, 7, 8}}
	if err := template.Must(template.New("").Parse(string(text))).Execute(&filled, ports); err != nil {
		t.Fatal(err)
	}
	var dropped []string
	c := withoutServers{log: func(_ string, args ...any) { dropped = append(dropped, args[0].(string)) }}
	objects, kept := yaml.NewYAMLOrJSONDecoder(&filled, 4096), 0
	for {
		object := &unstructured.Unstructured{}
		if err := objects.Decode(object); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if err := c.drop(object); err != nil {
			t.Fatal(err)
		}
		containers, _, err := unstructured.NestedSlice(object.Object, "spec", "template", "spec", "containers")
		if err != nil {
			t.Fatal(err)
		}
		kept += len(containers)
		if text := fmt.Sprint(object.Object); strings.Contains(text, "SCTP") {
			t.Errorf("still with SCTP: %s", text)
		}
	}
	// Two of each of the five sets.
	if len(dropped) != 10 || kept != 25 {
		t.Errorf("dropped %q; kept %d containers", dropped, kept)
	}
}

// TestSame: tests that were not compiled a second time are seen.
func TestSame(t *testing.T) {
	own := tests.ConformanceTests
	if err := same(own, slices.Clone(own)); err != nil {
		t.Error(err)
	}
	other := slices.Clone(own)
	other[3].ShortName = "x"
	for _, again := range [][]suite.ConformanceTest{nil, own[1:], other} {
		if same(own, again) == nil {
			t.Errorf("no error for %d others", len(again))
		}
	}
}

// TestOutcome: what was left out is told of the support level that it is of, beside what the
// suite says there, and counted.
func TestOutcome(t *testing.T) {
	const why = " left out, as the kernel has no SCTP sockets: "
	counts := map[string]kubernetes.Count{
		"CNPAdminTierGress":           {Sent: 36, LeftOut: 18},
		"CNPAdminTierEgressTCP":       {Sent: 14},
		"CNPAdminTierEgressNodePeers": {Sent: 4, LeftOut: 1},
	}
	made := func() report.ConformanceReport {
		return report.ConformanceReport{ProfileReports: []report.ProfileReport{{
			Standard: report.Status{
				Summary: "required tests skipped: B, A", SkippedTests: []string{"B", "A"},
				Statistics: report.Statistics{Passed: 20, Skipped: 2},
			},
			Experimental: &report.ExperimentalStatus{Status: report.Status{Statistics: report.Statistics{Passed: 5, Failed: 1}}},
		}}}
	}
	o := newOutcome(made(), tests.ConformanceTests, counts, 7*time.Second)
	want := "25 1 2 7\n" +
		"tests of SCTP alone" + why + "A, B\n" +
		"probes by SCTP" + why + "CNPAdminTierGress 18 of 54\n" +
		"probes by SCTP" + why + "CNPAdminTierEgressNodePeers 1 of 5\n"
	if got := o.lines(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	profile := o.Report.ProfileReports[0]
	if got, want := profile.Standard.Summary, "required tests skipped: B, A; probes by SCTP"+why+"CNPAdminTierGress 18 of 54"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := profile.Experimental.Summary, "probes by SCTP"+why+"CNPAdminTierEgressNodePeers 1 of 5"; got != want {
		t.Errorf("%q, want %q", got, want)
	}

	all := made()
	all.ProfileReports[0].Standard = report.Status{Statistics: report.Statistics{Passed: 24}}
	if got := newOutcome(all, tests.ConformanceTests, nil, 0); got.LeftOut != nil || !reflect.DeepEqual(got.Report, all) {
		t.Errorf("nothing left out: %+v", got)
	}
}
