package ui

import (
	_ "embed"
	"testing"

	cdppage "github.com/chromedp/cdproto/page"

	"github.com/podfence/podfence/test/page"
)

// axe is axe-core, by Deque: see testdata/README.md.
//
//go:embed testdata/axe.min.js
var axe string

// finding is a rule that the page breaks.
type finding struct {
	ID, Impact, Help string
	Nodes            []string
}

// TestAccessible: axe-core finds nothing serious in any view, light and dark.
func TestAccessible(t *testing.T) {
	address := serve(t, keeps(t, several()...).address()...)
	for _, scheme := range []string{"light", "dark"} {
		b := page.Open(t, pictures, address, scheme)
		// The page lets no text become a script; the test may.
		b.Do(page.Call(cdppage.SetBypassCSP, cdppage.SetBypassCSPParams{Enabled: true}))
		for _, view := range []struct{ name, hash, then string }{
			{"map", "#map", ""}, {"open", "#map?open=shop&open=batch&unfenced=1&select=deploy/shop/api", ""}, {"matrix", "#matrix", `.grid button[data-to="sts/shop/db"]`},
			{"flows", "#flows", ""}, {"map-flows", "#map?open=shop&open=batch&live=1", ""}, {"flows-why", "#flows", "tr.flow button"}, {"whatif", "#whatif?policy=NetworkPolicy/shop/db", "#drop"},
			// With what a change would do, beside it, and an error above.
			{"map-changed", "#map?open=shop", ""}, {"matrix-changed", "#matrix", ""}, {"failure", "#map?open=none", ""}, {"help", "#map", "#help"},
		} {
			b.Visit("#flows") // so that the view is drawn anew
			b.Visit(view.hash)
			switch view.name {
			case "flows", "flows-why":
				b.Waits(`document.querySelectorAll("tr.flow").length === 5`)
			case "map-flows":
				b.Waits(`document.querySelectorAll(".edge[data-how^=flow]").length > 0`)
			}
			if view.then != "" {
				b.Click(view.then)
				b.Waits(`document.querySelector("#result, #panel .answer, #keys[open]")`)
			}
			page.Eval[bool](b, axe+"; true")
			found := page.Eval[[]finding](b, `axe.run().then(r => r.violations.filter(v => v.impact === "serious" || v.impact === "critical")
				.map(v => ({ID: v.id, Impact: v.impact, Help: v.help, Nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + " " + n.failureSummary)})))`)
			for _, f := range found {
				t.Errorf("%s, %s: %s (%s): %q", view.name, scheme, f.ID, f.Impact, f.Nodes)
			}
			b.Picture(view.name + "-" + scheme)
		}
	}
}
