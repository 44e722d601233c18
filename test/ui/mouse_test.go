package ui

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/test/page"
)

// TestMouse goes through the map as a hand does: each press goes to whatever is seen there.
func TestMouse(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#map")
	b.Press(`[data-id="ns/shop"]`)
	b.Waits(`document.querySelector("[data-id='deploy/shop/web']")`)
	b.Ready()
	if hash := page.Eval[string](b, "location.hash"); !strings.Contains(hash, "open=shop") {
		t.Errorf("a namespace is open, and the address bar says %s", hash)
	}

	b.Press(`[data-id="deploy/shop/web"]`)
	b.Waits(`document.querySelector("#panel")?.dataset.selected === "deploy/shop/web"`)
	b.Press(`#panel button.close`)
	b.Waits(`document.querySelector("#panel").hidden`)

	// A line explains its ends.
	line := `.edge[data-how=allowed][data-from="deploy/shop/web"][data-to="deploy/shop/api"]`
	b.Press(line + " path.near")
	b.Waits(`document.querySelector("#panel")?.dataset.explained === "deploy/shop/web deploy/shop/api"`)
	text, err := exec.Command(plugin, append([]string{"explain", "deploy/shop/web", "deploy/shop/api"}, shopFiles...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := page.Eval[string](b, `document.querySelector("#panel .answer").textContent`); got != strings.TrimSpace(string(text)) {
		t.Errorf("the line explains:\n%s\nexplain:\n%s", got, text)
	}

	// The map follows the hand, and the wheel makes it larger and smaller; 0 shows all of it.
	box := func() []float64 {
		return page.Eval[[]float64](b, `document.querySelector("svg.map").getAttribute("viewBox").split(" ").map(Number)`)
	}
	b.Press(`#panel button.close`)
	b.Waits(`document.querySelector("#panel").hidden`)
	corner := page.Eval[[]float64](b, `(r => [r.left + 12, r.bottom - 12])(document.querySelector("svg.map").getBoundingClientRect())`)
	before := box()
	b.Drag(corner[0], corner[1], 60, -40)
	moved := box()
	if moved[0] >= before[0] || moved[1] <= before[1] || moved[2] != before[2] {
		t.Errorf("drawn to the right and up, the map goes from %v to %v", before, moved)
	}
	b.Wheel(corner[0], corner[1], -120)
	b.Waits(`Number(document.querySelector("svg.map").getAttribute("viewBox").split(" ")[2]) < ` + fmt.Sprint(moved[2]))
	b.Press(`.zoom button:nth-child(3)`)
	if got := box(); !slices.Equal(got, before) {
		t.Errorf("all of the map is %v, and was %v", got, before)
	}
}

// TestLinesOfNamespaces: a line between namespaces that are closed opens the rows of reach that it stands for.
func TestLinesOfNamespaces(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#map?unfenced=1")
	for _, c := range []struct{ from, to string }{{"outside (any other IPv4 address)", "ns/shop"}, {"ns/shop", "203.0.113.0/24"}} {
		b.Click(`.edge[data-from="` + c.from + `"][data-to="` + c.to + `"]`)
		b.Waits(`document.querySelector("#panel h2")?.textContent === "` + c.from + ` → ` + c.to + `" && document.querySelector("#panel table")`)
		reach := ask[explain.Reach](t, append([]string{"reach", "ns/shop"}, shopFiles...)...)
		var want [][2]string
		for _, row := range slices.Concat(reach.Ingress, reach.Egress) {
			from, to := row.From.String(), row.To.String()
			if (from == c.from || "ns/"+row.From.Namespace == c.from) && (to == c.to || "ns/"+row.To.Namespace == c.to) {
				want = append(want, [2]string{from, to})
			}
		}
		got := page.Eval[[][2]string](b, `[...document.querySelectorAll("#panel tr[data-from]")].map(r => [r.dataset.from, r.dataset.to])`)
		if !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%s to %s has the rows %v, reach has %v", c.from, c.to, got, want)
		}
	}
}

// TestHistory: the address bar says what is shown, so that one can go back, forward, and begin there.
func TestHistory(t *testing.T) {
	address := serve(t, shopFiles...)
	b := page.Open(t, pictures, address, "light")
	b.Visit("#map")
	b.Press(`[data-id="ns/shop"]`)
	b.Waits(`document.querySelector("[data-id='deploy/shop/web']")`)
	b.Press(`a[data-nav=matrix]`)
	b.Waits(`document.querySelector(".grid")`)
	page.Eval[bool](b, `(s => { s.value = "batch"; s.dispatchEvent(new Event("change")); return true })(document.querySelector("#matrix-namespace"))`)
	b.Waits(`document.querySelector(".grid caption")?.textContent.includes("batch")`)
	m := ask[explain.ReachMatrix](t, append([]string{"reach", "--matrix", "-n", "batch"}, shopFiles...)...)
	if n := page.Eval[int](b, `document.querySelectorAll(".grid th[scope=row]").length`); n != len(m.Parties) {
		t.Errorf("the matrix of batch has %d rows, reach --matrix has %d", n, len(m.Parties))
	}
	b.Visit("#whatif?policy=NetworkPolicy/shop/api")
	if text := page.Eval[string](b, `document.querySelector("#yaml").value`); !strings.Contains(text, "name: api") {
		t.Errorf("the policy is\n%s", text)
	}
	back := func(by, then string) {
		t.Helper()
		page.Eval[bool](b, `(history.`+by+`, true)`)
		b.Waits(then)
		b.Ready()
	}
	back("back()", `document.querySelector(".grid caption")?.textContent.includes("batch")`)
	back("back()", `document.querySelector(".grid caption")?.textContent === "Who reaches whom"`)
	back("back()", `document.querySelector("[data-id='deploy/shop/web']")`)
	back("back()", `document.querySelector("[data-id='ns/shop']") && !document.querySelector("[data-id='deploy/shop/web']")`)
	back("go(4)", `document.querySelector("#yaml")?.value.includes("name: api")`)
	// A view that is none is the map, and a hash that is none does no harm.
	b.Visit("#none?%zz&open=shop")
	b.Waits(`document.querySelector("[data-id='deploy/shop/web']")`)
}
