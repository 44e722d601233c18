package commands_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/flows"
)

// annotated plays an API server that has objects by their paths, with the value of their annotation; none if it is "".
type annotated struct {
	objects map[string]string
	// forbidden are paths that the user may not read.
	forbidden string
	patched   []string
}

func (a *annotated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	value, has := a.objects[r.URL.Path]
	switch {
	case a.forbidden != "" && r.URL.Path == a.forbidden:
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
		return
	case !has:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"it is not there"}`)
		return
	case r.Method == http.MethodPatch:
		body, _ := io.ReadAll(r.Body)
		a.patched = append(a.patched, strings.TrimSuffix(r.URL.Path+"?"+r.URL.Query().Get("dryRun"), "?")+" "+r.Header.Get("Content-Type")+" "+string(body))
	case r.Method != http.MethodGet:
		http.Error(w, r.Method, http.StatusMethodNotAllowed)
		return
	}
	object := map[string]any{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": map[string]any{"name": "x"}}
	if value != "" {
		object["metadata"] = map[string]any{"name": "x", "annotations": map[string]string{"podfence.io/enforcement": value}}
	}
	_ = json.NewEncoder(w).Encode(object)
}

const (
	namespacePath = "/api/v1/namespaces/shop"
	policyPath    = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/"
	clusterPath   = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies/"
)

// newAnnotated has a policy that is staged and one that is not, and a ClusterNetworkPolicy of an older version.
func newAnnotated(namespace string) *annotated {
	return &annotated{objects: map[string]string{namespacePath: namespace, policyPath + "staged": "staged", policyPath + "forced": "", policyPath + "wrong": "Staged", clusterPath + "c": ""}}
}

func (a *annotated) call(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return call(t, append(args, "--server="+server.URL, "--kubeconfig=/dev/null")...)
}

// TestStage: what is written, what is said, and what is asked, of each state that a policy may be in.
func TestStage(t *testing.T) {
	const (
		set    = ` application/merge-patch+json {"metadata":{"annotations":{"podfence.io/enforcement":"staged"}}}`
		unset  = ` application/merge-patch+json {"metadata":{"annotations":{"podfence.io/enforcement":null}}}`
		policy = "networkpolicy.networking.k8s.io/"
	)
	agent := (&flowAgent{}).start(t)
	for _, test := range []struct {
		call      string
		namespace string
		code      int
		patched   []string
		out       string
		said      string
	}{
		{"stage shop/forced --yes", "", 0, []string{policyPath + "forced" + set}, policy + "forced staged\n", "warning: NetworkPolicy shop/forced is no longer in force"},
		{"stage -n shop forced shop/forced --yes -o name", "", 0, []string{policyPath + "forced" + set}, policy + "forced\n", "warning"},
		{"stage shop/forced", "", 2, nil, "", "nobody can be asked: nothing was changed; give --yes"},
		{"stage shop/staged", "", 0, nil, policy + "staged is staged already\n", ""},
		{"stage shop/wrong --yes", "", 0, []string{policyPath + "wrong" + set}, policy + "wrong staged\n", "warning"},
		{"stage shop/forced", "staged", 0, []string{policyPath + "forced" + set}, policy + "forced staged\n", ""},
		{"stage shop/forced --dry-run=client", "", 0, nil, policy + "forced staged (dry run)\n", ""},
		{"stage shop/forced --dry-run=server", "", 0, []string{policyPath + "forced?All" + set}, policy + "forced staged (server dry run)\n", ""},
		{"stage cnp/c --yes", "", 0, []string{clusterPath + "c" + set}, "clusternetworkpolicy.policy.networking.k8s.io/c staged\n", "warning: ClusterNetworkPolicy c"},
		{"stage ns/shop --yes", "", 0, []string{namespacePath + set}, "namespace/shop staged\n", "each NetworkPolicy of Namespace shop"},
		{"stage shop/none shop/forced --yes", "", 2, nil, "", "reading NetworkPolicy shop/none"},
		{"stage a/b/c", "", 2, nil, "", "is no policy"},
		{"stage shop/forced --dry-run=never", "", 2, nil, "", "--dry-run"},

		{"enforce shop/forced " + agent, "", 0, nil, policy + "forced is in force already\n", ""},
		{"enforce shop/staged --yes " + agent, "", 0, []string{policyPath + "staged" + unset}, policy + "staged in force\n", "remember nothing"},
		{"enforce shop/staged " + agent, "", 2, nil, "", "remember nothing"},
		{"enforce shop/wrong --yes " + agent, "", 0, []string{policyPath + "wrong" + unset}, policy + "wrong in force\n", "remember nothing"},
		{"enforce shop/staged --agent=127.0.0.1:1", "", 2, nil, "", "give --yes to go on without that"},
		{"enforce shop/staged --yes --agent=127.0.0.1:1", "", 0, []string{policyPath + "staged" + unset}, policy + "staged in force\n", "Nobody knows what would have been denied"},
		{"enforce shop/staged --yes " + agent, "staged", 0, []string{policyPath + "staged" + unset}, policy + "staged has no annotation of its own\n", "kubectl podfence enforce ns/shop"},
		{"enforce shop/forced " + agent, "staged", 0, nil, policy + "forced has no annotation of its own\n", "kubectl podfence enforce ns/shop"},
		{"enforce shop/staged --dry-run=client", "", 0, nil, policy + "staged in force (dry run)\n", ""},
	} {
		a := newAnnotated(test.namespace)
		code, out, said := a.call(t, strings.Fields(test.call)...)
		if code != test.code || out != test.out || !strings.Contains(said, test.said) || test.said == "" && said != "" {
			t.Errorf("%s (namespace %q): exit code %d, %q, %q", test.call, test.namespace, code, out, said)
		}
		if fmt.Sprint(a.patched) != fmt.Sprint(test.patched) {
			t.Errorf("%s (namespace %q): patched %q, want %q", test.call, test.namespace, a.patched, test.patched)
		}
	}
	a := newAnnotated("staged")
	a.forbidden = namespacePath
	if code, out, _ := a.call(t, "stage", "shop/forced", "--yes"); code != 0 || len(a.patched) != 1 {
		t.Errorf("who may not read Namespaces: exit code %d, %s, patched %q", code, out, a.patched)
	}
}

// TestEnforceSummary: what a policy would have denied is summed up by workloads and ports, that of other policies is
// left out, and it is said over which time.
func TestEnforceSummary(t *testing.T) {
	would := func(ago time.Duration, change func(*flows.Flow)) *flows.Flow {
		return denied(0, func(f *flows.Flow) {
			f.Time, f.Verdict, f.Policies = time.Now().Add(-ago), flows.WouldDeny, []flows.Policy{{Kind: "NetworkPolicy", Namespace: "shop", Name: "staged", Staged: true}}
			if change != nil {
				change(f)
			}
		})
	}
	agent := (&flowAgent{seen: []*flows.Flow{
		would(2*time.Hour, func(f *flows.Flow) { f.Verdict = flows.Denied }),
		would(30*time.Minute, nil),
		would(20*time.Minute, func(f *flows.Flow) { f.Source.Pod = "web-other" }),
		would(10*time.Minute, func(f *flows.Flow) { f.Repeats = 5 }),
		would(9*time.Minute, func(f *flows.Flow) { f.Verdict, f.Source.Workload = flows.WouldAllow, nil }),
		would(8*time.Minute, func(f *flows.Flow) { f.Policies[0].Name = "other" }),
		would(7*time.Minute, func(f *flows.Flow) { f.Policies[0].Namespace = "elsewhere" }),
	}}).start(t)
	_, _, said := newAnnotated("").call(t, "enforce", "shop/staged", agent)
	const want = `VERDICT       FROM                    TO          PORT       POLICY        FLOWS   PACKETS   LAST SEEN
would-deny    shop/web (Deployment)   shop/db-0   5432/TCP   shop/staged   2       7         10m ago
would-allow   shop/web-7d9            shop/db-0   5432/TCP   shop/staged   1       1         9m ago
All agents remember the last 120m at least; what was before, or was before the policy was staged, is not in this.
kubectl podfence: standard input is no terminal, so that nobody can be asked: nothing was changed; give --yes
`
	if said != want {
		t.Errorf("it says\n%s, want\n%s", said, want)
	}
	if _, _, said := newAnnotated("staged").call(t, "enforce", "ns/shop", agent); !strings.Contains(said, "shop/other") || strings.Contains(said, "elsewhere") {
		t.Errorf("of a Namespace it says\n%s", said)
	}
}
