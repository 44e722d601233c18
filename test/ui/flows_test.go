package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/test/page"
)

// keeper is an agent that keeps flows, and tells them to whoever asks, as it is asked.
type keeper struct {
	*httptest.Server
	mu    sync.Mutex
	kept  []flows.Flow
	asked []url.Values
	// follow is how many ask now for what is to come.
	follow int
}

func keeps(t *testing.T, kept ...flows.Flow) *keeper {
	k := &keeper{kept: kept}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := flows.ParseQuery(r.URL.Query(), time.Now())
		if r.URL.Path != flows.Path || err != nil {
			http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
			return
		}
		k.mu.Lock()
		k.asked = append(k.asked, r.URL.Query())
		var told []flows.Flow
		for _, f := range k.kept {
			if q.Match(&f) {
				told = append(told, f)
			}
		}
		k.mu.Unlock()
		if q.Last >= 0 && len(told) > q.Last {
			told = told[len(told)-q.Last:]
		}
		w.Header().Set("Content-Type", flows.MediaType)
		for _, f := range told {
			line, _ := json.Marshal(f)
			fmt.Fprintf(w, "%s\n", line)
		}
		w.(http.Flusher).Flush()
		if q.Follow {
			k.count(1)
			<-r.Context().Done()
			k.count(-1)
		}
	}))
	t.Cleanup(func() {
		k.CloseClientConnections()
		k.Close()
	})
	return k
}

func (k *keeper) count(by int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.follow += by
}

// follows waits until so many follow.
func (k *keeper) follows(t *testing.T, want int) {
	t.Helper()
	n := 0
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		k.mu.Lock()
		n = k.follow
		k.mu.Unlock()
		if n == want {
			return
		}
	}
	t.Errorf("%d follow the flows, want %d", n, want)
}

// last is what was asked for last.
func (k *keeper) last() url.Values {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked[len(k.asked)-1]
}

func (k *keeper) address() []string {
	return append([]string{"--agent", strings.TrimPrefix(k.URL, "http://")}, shopFiles...)
}

// several are flows of each verdict, in the order of time.
func several() []flows.Flow {
	all := []flows.Flow{flow(flows.Denied, "db-0", 5432), flow(flows.Allowed, "db-0", 5433), flow(flows.WouldDeny, "db-0", 5434), flow(flows.WouldAllow, "db-0", 5435), flow(flows.Denied, "db-0", 5436)}
	for i := range all {
		all[i].Time = time.Date(2026, 1, 31, 12, 0, i, 0, time.UTC)
		all[i].Policies = []flows.Policy{{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "web"}}
	}
	all[4].Source = flows.Endpoint{IP: all[4].Source.IP, Port: 40001, Namespace: "batch", Pod: "report-1", Workload: &flows.Workload{Kind: "Job", Name: "report"}}
	all[4].Policies[0].Name = "db"
	return all
}

// readFlows is what each row of the page says, the oldest first.
const readFlows = `[...document.querySelectorAll("tr.flow")].reverse().map(r => [r.dataset.verdict, r.querySelector("time").dateTime, r.cells[2].textContent, r.cells[3].textContent])`

// observed is what kubectl podfence observe prints, as rows of the page.
func observed(t *testing.T, k *keeper, args ...string) (rows [][]string) {
	t.Helper()
	out, err := exec.Command(plugin, append([]string{"observe", "-o", "json", "--agent", strings.TrimPrefix(k.URL, "http://")}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); {
		var f flows.Flow
		if err := decoder.Decode(&f); err != nil {
			t.Fatal(err)
		}
		end := func(e flows.Endpoint) string { return fmt.Sprintf("%s/%s:%d", e.Namespace, e.Pod, e.Port) }
		rows = append(rows, []string{string(f.Verdict), f.Time.Format(time.RFC3339Nano), end(f.Source), end(f.Destination) + " " + f.Protocol})
	}
	return rows
}

// TestObserve: the rows are what observe prints, whatever is filtered; the filters are in the address bar, from there in
// the agent's query, and one can go back from them; and nothing is followed that nobody sees.
func TestObserve(t *testing.T) {
	k := keeps(t, several()...)
	b := page.Open(t, pictures, serve(t, k.address()...), "dark")
	set := func(id, value string) {
		t.Helper()
		page.Eval[bool](b, fmt.Sprintf(`(e => { e.value = %q; e.dispatchEvent(new Event("change")); return true })(document.querySelector("#flow-%s"))`, value, id))
	}
	rows := func(n int) [][]string {
		t.Helper()
		b.Waits(fmt.Sprintf(`document.querySelectorAll("tr.flow").length === %d`, n))
		return page.Eval[[][]string](b, readFlows)
	}
	b.Visit("#flows")
	same := func(n int, args ...string) {
		t.Helper()
		got, want := rows(n), observed(t, k, args...)
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("the page has\n%q\nobserve %v:\n%q", got, args, want)
		}
	}
	same(5, "--verdict", "all")
	b.Picture("observe-dark")
	for _, c := range []struct {
		id, value, hash string
		n               int
		args            []string
	}{
		{"verdict", "denied", "#flows?verdict=denied", 2, []string{"--verdict", "denied"}},
		{"namespace", "batch", "#flows?namespace=batch&verdict=denied", 1, []string{"-n", "batch", "--verdict", "denied"}},
		{"namespace", "", "#flows?verdict=denied", 2, []string{"--verdict", "denied"}},
		{"verdict", "", "#flows", 5, []string{"--verdict", "all"}},
		{"port", "5434", "#flows?port=5434", 1, []string{"--port", "5434", "--verdict", "all"}},
		{"policy", "shop/web", "#flows?port=5434&policy=shop%2Fweb", 1, []string{"--port", "5434", "--policy", "shop/web", "--verdict", "all"}},
		{"port", "", "#flows?policy=shop%2Fweb", 4, []string{"--policy", "shop/web", "--verdict", "all"}},
	} {
		set(c.id, c.value)
		b.Waits(fmt.Sprintf(`location.hash === %q`, c.hash))
		same(c.n, c.args...)
	}
	page.Eval[bool](b, `(history.back(), true)`)
	same(1, "--port", "5434", "--policy", "shop/web", "--verdict", "all")
	if port := page.Eval[string](b, `document.querySelector("#flow-port").value`); port != "5434" {
		t.Errorf("gone back, the port is %q", port)
	}
	k.follows(t, 1)
	if q := k.last(); q.Get("port") != "5434" || q.Get("policy") != "shop/web" {
		t.Errorf("the agent was asked for %v", q)
	}
	b.Visit("#flows?port=many")
	b.Waits(`document.querySelector(".notes")?.textContent.includes("many")`)
	b.Visit("#matrix")
	k.follows(t, 0)
	b.Visit("#map?live=1&open=shop&open=batch")
	b.Waits(`document.querySelector('.edge[data-how=flow-denied][data-from="job/batch/report"]')`)
	k.follows(t, 1)
	b.Visit("#map")
	k.follows(t, 0)
}

// TestFlowsOfVerdicts: the map has lines of what is asked for alone.
func TestFlowsOfVerdicts(t *testing.T) {
	k := keeps(t, several()...)
	b := page.Open(t, pictures, serve(t, k.address()...), "dark")
	read := `[...new Set([...document.querySelectorAll(".edge")].map(e => e.dataset.how))].sort().join(" ")`
	for show, want := range map[string]string{
		"":        "allowed flow-allowed flow-denied flow-would-allow flow-would-deny",
		"allowed": "allowed", "flows": "flow-allowed flow-denied flow-would-allow flow-would-deny", "denied": "flow-denied flow-would-deny",
	} {
		b.Visit("#map?open=shop&open=batch&live=1&show=" + show)
		b.Waits(read + fmt.Sprintf(` === %q`, want))
	}
}

// TestHostileText: text that agents, names and policies bring is shown as text, whatever it is.
func TestHostileText(t *testing.T) {
	const markup = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`
	f := flow(flows.Denied, "db-0", 5432)
	f.Text, f.NearestMiss, f.Node = markup, markup, markup
	f.Destination = flows.Endpoint{IP: f.Destination.IP, Port: 443}
	f.DestinationNames = []string{markup}
	k := keeps(t, f)
	policies := written(t, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: hostile\n  namespace: shop\n  annotations:\n    note: "+fmt.Sprintf("%q", markup)+"\nspec:\n  podSelector: {}\n  policyTypes: [Ingress]\n")
	b := page.Open(t, pictures, serve(t, append(k.address(), "-f", policies)...), "light")
	shows := func(js string) {
		t.Helper()
		b.Waits(js)
		if !page.Eval[bool](b, fmt.Sprintf(`document.body.textContent.includes(%q) || [...document.querySelectorAll("textarea")].some(a => a.value.includes("onerror"))`, `onerror=`)) {
			t.Errorf("the text is not shown: %s", js)
		}
		if page.Eval[bool](b, `document.title.includes("taken") || document.querySelector("#view img, #panel img, #view script, #panel script, #failure img") !== null`) {
			t.Errorf("the text became markup: %s", js)
		}
	}
	b.Visit("#flows")
	shows(`document.querySelectorAll("tr.flow").length === 1`)
	b.Visit("#matrix")
	b.Click(`.grid button[data-from="deploy/shop/web"][data-to="sts/shop/db"]`)
	shows(`document.querySelector('#panel [data-policy="NetworkPolicy/shop/hostile"]')`)
	b.Visit("#whatif?policy=NetworkPolicy/shop/hostile")
	shows(`document.querySelector("#yaml")`)
	b.Visit("#map?open=" + url.QueryEscape(markup))
	b.Waits(`!document.querySelector("#failure").hidden`)
	shows(`document.querySelector("#failure").textContent.includes("onerror")`)
}
