package ui

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/test/page"
)

// edge is a line of the map, as the page has it.
type edge struct{ From, To, Text string }

const readEdges = `[...document.querySelectorAll(".edge[data-how=allowed], .edge[data-how=unfenced]")].map(e => ({From: e.dataset.from, To: e.dataset.to, Text: e.dataset.text ?? ""}))`

// TestMap: with all namespaces open, the map has a line, with the ports, for each pair of workloads that reach says
// reach each other, and no others.
func TestMap(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#map")
	b.Click(`[data-id="ns/shop"]`)
	b.Ready()
	b.Waits(`document.querySelector("[data-id='deploy/shop/web']")`)
	b.Visit("#map?open=shop&open=batch&unfenced=1")
	b.Waits(`document.querySelectorAll('[data-id^="job/"]').length === 1`)
	got := map[[2]string]string{}
	for _, e := range page.Eval[[]edge](b, readEdges) {
		got[[2]string{e.From, e.To}] = e.Text
	}
	want := map[[2]string][]string{}
	for _, name := range []string{"deploy/shop/web", "deploy/shop/api", "sts/shop/db", "job/batch/report"} {
		reach := ask[explain.Reach](t, append([]string{"reach", name}, shopFiles...)...)
		for _, row := range slices.Concat(reach.Ingress, reach.Egress) {
			if len(row.Open) > 0 {
				key := [2]string{row.From.String(), row.To.String()}
				want[key] = append(want[key], row.Open[0].Protocol)
			}
		}
	}
	for key := range want {
		text, is := got[key]
		if !is {
			t.Errorf("reach says that %s reaches %s, and the map has no line", key[0], key[1])
		} else if text == "" {
			t.Errorf("the line from %s to %s has no ports", key[0], key[1])
		}
	}
	for key := range got {
		inside := strings.Count(key[0], "/") == 2 && strings.Count(key[1], "/") == 2
		if _, is := want[key]; !is && inside {
			t.Errorf("the map has a line from %s to %s, and reach says nothing of it", key[0], key[1])
		}
	}
	b.Picture("map")
	b.Visit("#map?q=batch")
	if ids := page.Eval[[]string](b, `[...document.querySelectorAll("[data-id^='ns/']")].map(e => e.dataset.id)`); !slices.Equal(ids, []string{"ns/batch"}) {
		t.Errorf("a search for batch shows %v", ids)
	}
	b.Visit("#map?open=shop&port=5432%2FTCP")
	for _, e := range page.Eval[[]edge](b, readEdges) {
		if e.To != "sts/shop/db" && e.From != "nodes" {
			t.Errorf("port 5432 is shown to be open from %s to %s", e.From, e.To)
		}
	}
}

// TestDetails: who is selected has the rows of reach.
func TestDetails(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#map?open=shop")
	b.Click(`[data-id="deploy/shop/api"]`)
	b.Waits(`document.querySelector("#panel")?.dataset.selected === "deploy/shop/api"`)
	reach := ask[explain.Reach](t, append([]string{"reach", "deploy/shop/api"}, shopFiles...)...)
	var want [][2]string
	for _, row := range slices.Concat(reach.Ingress, reach.Egress) {
		want = append(want, [2]string{row.From.String(), row.To.String()})
	}
	got := page.Eval[[][2]string](b, `[...document.querySelectorAll("#panel tr[data-from]")].map(r => [r.dataset.from, r.dataset.to])`)
	if !slices.Equal(got, want) {
		t.Errorf("the details have the rows %v, reach has %v", got, want)
	}
	b.Picture("details")
}

// TestMatrix: the cells are those of reach --matrix, and a cell explains itself as explain does, with the rule marked.
func TestMatrix(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "dark")
	b.Visit("#matrix")
	m := ask[explain.ReachMatrix](t, append([]string{"reach", "--matrix", "-A"}, shopFiles...)...)
	open := map[[2]string]bool{}
	for _, c := range m.Cells {
		if len(c.Open) > 0 {
			open[[2]string{c.From, c.To}] = true
		}
	}
	got := map[[2]string]bool{}
	for _, c := range page.Eval[[][3]string](b, `[...document.querySelectorAll(".grid td button")].map(e => [e.dataset.from, e.dataset.to, e.className])`) {
		if strings.Contains(c[2], "open") {
			got[[2]string{c[0], c[1]}] = true
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(open) {
		t.Errorf("open in the page:\n%v\nby reach --matrix:\n%v", got, open)
	}
	if rows := page.Eval[[]string](b, `[...document.querySelectorAll(".grid th[scope=row]")].map(e => e.textContent)`); len(rows) != len(m.Parties) {
		t.Errorf("rows are %v, and there are %d parties", rows, len(m.Parties))
	}
	b.Click(`.grid button[data-from="deploy/shop/web"][data-to="deploy/shop/api"]`)
	b.Waits(`document.querySelector("#panel")?.dataset.explained === "deploy/shop/web deploy/shop/api"`)
	text, err := exec.Command(plugin, append([]string{"explain", "deploy/shop/web", "deploy/shop/api"}, shopFiles...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := page.Eval[string](b, `document.querySelector("#panel .answer").textContent`); got != strings.TrimSpace(string(text)) {
		t.Errorf("the page explains:\n%s\nexplain:\n%s", got, text)
	}
	marked := page.Eval[string](b, `[...document.querySelectorAll('[data-policy="NetworkPolicy/shop/api"] mark.allows')].map(e => e.textContent).join("")`)
	if !strings.Contains(marked, "app: web") || !strings.Contains(marked, "8080") || strings.Contains(marked, "5432") {
		t.Errorf("marked in policy shop/api is:\n%s", marked)
	}
	b.Picture("explanation-dark")
	b.Click(`.grid button[data-from="deploy/shop/web"][data-to="sts/shop/db"]`)
	b.Waits(`document.querySelector("#panel")?.dataset.explained === "deploy/shop/web sts/shop/db"`)
	if verdict := page.Eval[string](b, `document.querySelector("#panel .verdict").dataset.verdict`); verdict != "Denied" {
		t.Errorf("web to db is %s", verdict)
	}
	if n := page.Eval[int](b, `document.querySelectorAll("#panel mark.misses").length`); n == 0 {
		t.Error("no nearest miss is marked")
	}
}

// flow is a packet of the shop that was denied.
func flow(verdict flows.Verdict, to string, port uint16) flows.Flow {
	f := flows.Flow{
		Time: time.Now(), Node: "node-1", Verdict: verdict, Protocol: "TCP",
		Source:      flows.Endpoint{IP: netip.MustParseAddr("10.244.1.10"), Port: 40000, Namespace: "shop", Pod: "web-1", Workload: &flows.Workload{Kind: "Deployment", Name: "web"}},
		Destination: flows.Endpoint{IP: netip.MustParseAddr("10.244.2.20"), Port: port, Namespace: "shop", Pod: to, Workload: &flows.Workload{Kind: "StatefulSet", Name: "db"}},
	}
	if verdict == flows.Denied {
		f.Reason, f.Text, f.Direction = flows.DefaultDeny, "no rule allows it", flows.Egress
	} else {
		f.Event = flows.Began
	}
	return f
}

// TestFlows: flows come as agents tell them, wait while the view is paused, and are lines on the map.
func TestFlows(t *testing.T) {
	a := tells(t)
	b := page.Open(t, pictures, serve(t, append([]string{"--agent", strings.TrimPrefix(a.URL, "http://")}, shopFiles...)...), "light")
	b.Visit("#flows")
	a.told <- flow(flows.Denied, "db-0", 5432)
	b.Waits(`document.querySelectorAll("tr.flow").length === 1`)
	if row := page.Eval[string](b, `document.querySelector("tr.flow").textContent`); !strings.Contains(row, "shop/web-1:40000") || !strings.Contains(row, "shop/db-0:5432") || !strings.Contains(row, "Denied") || !strings.Contains(row, "no rule allows it") {
		t.Errorf("the row is %s", row)
	}
	b.Click("#pause")
	a.told <- flow(flows.Allowed, "db-0", 5433)
	b.Waits(`document.querySelector(".bar .quiet")?.textContent.includes("1 are waiting")`)
	if n := page.Eval[int](b, `document.querySelectorAll("tr.flow").length`); n != 1 {
		t.Errorf("%d flows while it is paused", n)
	}
	b.Click("#pause")
	b.Waits(`document.querySelectorAll("tr.flow").length === 2`)
	b.Picture("flows")
	b.Click(`tr.flow[data-verdict=denied] button`)
	b.Waits(`document.querySelector("#panel")?.dataset.explained === "shop/web-1 shop/db-0"`)
	if verdict := page.Eval[string](b, `document.querySelector("#panel .verdict").dataset.verdict`); verdict != "Denied" {
		t.Errorf("web to db is %s", verdict)
	}
	b.Visit("#map?open=shop&live=1")
	for range 3 {
		a.told <- flow(flows.Denied, "db-0", 5432)
	}
	b.Waits(`document.querySelector('.edge[data-how=flow-denied][data-from="deploy/shop/web"][data-to="sts/shop/db"]')?.dataset.text === "✕ 3"`)
	b.Picture("map-flows")
}

// TestNoAgents: without agents, the page says why there are no flows.
func TestNoAgents(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#flows")
	if text := page.Eval[string](b, `document.querySelector("main").textContent`); !strings.Contains(text, "--agent") {
		t.Errorf("it says: %s", text)
	}
}

// TestMatrixText: each cell reads as in the table that reach --matrix prints.
func TestMatrixText(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#matrix")
	out, err := exec.Command(plugin, append([]string{"reach", "--matrix", "-A"}, shopFiles...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	columns := regexp.MustCompile(`\s{2,}`)
	var want [][]string
	for i, line := range strings.Split(string(out), "\n") {
		if line == "" {
			break
		}
		if i == 0 {
			continue
		}
		cells := columns.Split(strings.TrimSpace(line), -1)
		_, cells[0], _ = strings.Cut(cells[0], " ") // the row's number
		want = append(want, cells)
	}
	signs := strings.NewReplacer("–", "-", "″", `"`, "·", ".")
	got := page.Eval[[][]string](b, `[...document.querySelectorAll(".grid tbody tr")].map(r => [...r.cells].map(c => c.textContent))`)
	for i := range got {
		for j := range got[i] {
			got[i][j] = signs.Replace(got[i][j])
		}
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("the page:\n%q\nreach --matrix:\n%q", got, want)
	}
}

// TestState: what is isolated and how many there are is said in words, and as reach and the files have it.
func TestState(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#map?open=shop&open=batch&unfenced=1")
	for id, want := range map[string]string{
		"ns/shop": "namespace shop, 3 workloads, 4 pods, ingress isolated, egress isolated", "ns/batch": "namespace batch, 1 workload, 1 pod, ingress not isolated, egress not isolated",
		"deploy/shop/api": "deploy/shop/api, 2 pods, ingress isolated, egress isolated", "job/batch/report": "job/batch/report, 1 pod, ingress not isolated, egress not isolated",
	} {
		if got := page.Eval[string](b, fmt.Sprintf(`document.querySelector('[data-id=%q]').getAttribute("aria-label")`, id)); got != want {
			t.Errorf("%s says %q, want %q", id, got, want)
		}
	}
	if text := page.Eval[string](b, `document.querySelector("#source").textContent`); !strings.Contains(text, "2 namespaces, 5 pods, 5 policies") || !strings.Contains(text, "policies.yaml") {
		t.Errorf("it says of what was read: %s", text)
	}
}

// TestReadAgain: what has changed is shown once it was read again, and a reading that fails says so, and leaves what was
// shown.
func TestReadAgain(t *testing.T) {
	data, err := os.ReadFile(shop + "policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policies := written(t, string(data))
	b := page.Open(t, pictures, serve(t, "-f", shop+"cluster.yaml", "-f", policies, "--refresh", "0"), "light")
	b.Visit("#matrix")
	cell := `.grid button[data-from="deploy/shop/web"][data-to="deploy/shop/api"]`
	text := func() string { return page.Eval[string](b, `document.querySelector('`+cell+`').textContent`) }
	if text() != "8080" {
		t.Errorf("web to api: %s", text())
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(policies, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.ReplaceAll(string(data), "port: 8080", "port: 8081"))
	b.Keys("r")
	b.Waits(`document.querySelector('` + cell + `')?.textContent === "8081" && document.body.dataset.generation === "2"`)
	write("kind: [")
	b.Click("#again")
	b.Waits(`!document.querySelector("#failure").hidden`)
	if said := page.Eval[string](b, `document.querySelector("#failure").textContent`); !strings.Contains(said, "objects.yaml") {
		t.Errorf("it says: %s", said)
	}
	if text() != "8081" {
		t.Errorf("after a failure, web to api: %s", text())
	}
	write(string(data))
	b.Waits(`!document.querySelector("#again").disabled`)
	b.Click("#again")
	b.Waits(`document.querySelector('` + cell + `')?.textContent === "8080" && document.querySelector("#failure").hidden`)
}

// TestPlacesStayRight: an explanation says where a rule is written now, also if nothing but comments has changed.
func TestPlacesStayRight(t *testing.T) {
	data, err := os.ReadFile(shop + "policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policies := written(t, string(data))
	b := page.Open(t, pictures, serve(t, "-f", shop+"cluster.yaml", "-f", policies, "--refresh", "0"), "light")
	for range 2 {
		b.Visit("#matrix")
		b.Keys("r")
		b.Waits(`!document.querySelector("#again").disabled`)
		b.Click(`.grid button[data-from="deploy/shop/web"][data-to="deploy/shop/api"]`)
		b.Waits(`document.querySelector("#panel")?.dataset.explained === "deploy/shop/web deploy/shop/api"`)
		text, err := exec.Command(plugin, "explain", "deploy/shop/web", "deploy/shop/api", "-f", shop+"cluster.yaml", "-f", policies).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := page.Eval[string](b, `document.querySelector("#panel .answer").textContent`); got != strings.TrimSpace(string(text)) {
			t.Errorf("the page explains:\n%s\nexplain:\n%s", got, text)
		}
		if err := os.WriteFile(policies, append([]byte("# A comment.\n# Another.\n"), data...), 0o600); err != nil {
			t.Fatal(err)
		}
		b.Click("#panel button.close")
	}
}
