package ui

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/podfence/podfence/test/page"
)

// TestKeyboard: the map and the matrix without a mouse.
func TestKeyboard(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#map")
	focus := func() string {
		return page.Eval[string](b, `document.activeElement?.dataset.id ?? document.activeElement?.id ?? ""`)
	}
	b.Keys("/")
	if focus() != "map-q" {
		t.Errorf("/ goes to %q", focus())
	}
	for range 20 {
		if focus() == "ns/shop" {
			break
		}
		b.Keys(kb.Tab)
	}
	b.Keys(kb.Enter)
	b.Waits(`document.querySelector("[data-id='deploy/shop/web']")`)
	b.Ready()
	if focus() == "" {
		t.Error("the focus is lost when a namespace is opened")
	}
	b.Keys(kb.Escape)
	b.Waits(`document.querySelector("#panel").hidden`)
	before := page.Eval[string](b, `document.querySelector("svg.map").getAttribute("viewBox")`)
	page.Eval[bool](b, `(document.querySelector('[data-id="deploy/shop/web"]').focus(), true)`)
	b.Keys("+", kb.ArrowRight)
	if after := page.Eval[string](b, `document.querySelector("svg.map").getAttribute("viewBox")`); after == before {
		t.Error("+ and an arrow do not move the map")
	}
	b.Visit("#matrix")
	page.Eval[bool](b, `(document.querySelector('.grid button[tabindex="0"]').focus(), true)`)
	b.Keys(kb.ArrowDown, kb.ArrowRight, kb.Enter)
	b.Waits(`document.querySelector("#panel")?.dataset.explained === "deploy/shop/api sts/shop/db"`)
	if n := page.Eval[int](b, `document.querySelectorAll('.grid button[tabindex="0"]').length`); n != 1 {
		t.Errorf("Tab stops at %d cells", n)
	}
	b.Keys("?")
	b.Waits(`document.querySelector("#keys").open`)
}

// TestTab goes by Tab, Enter and arrows alone from the address bar through the map and the matrix: nothing is focused
// for it, and what has the focus is always seen.
func TestTab(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#map")
	// What has the focus, and whether an outline or the like shows it.
	type place struct {
		Name string
		Seen bool
	}
	const read = `(e => ({
		Name: e.dataset.id ?? e.dataset.nav ?? (e.dataset.from && e.dataset.from + " to " + e.dataset.to) ?? (e.id || e.className || e.tagName),
		Seen: (getComputedStyle(e).outlineStyle !== "none" || e instanceof SVGElement && parseFloat(getComputedStyle(e).strokeWidth) > 3) && (r => r.width > 0 && r.height > 0)(e.getBoundingClientRect()),
	}))(document.activeElement)`
	until := func(name string) {
		t.Helper()
		var went []string
		for range 60 {
			b.Keys(kb.Tab)
			at := page.Eval[place](b, read)
			if went = append(went, at.Name); !at.Seen && at.Name != "BODY" { // where Tab begins anew
				t.Errorf("the focus at %s is not seen", at.Name)
			}
			if at.Name == name {
				return
			}
		}
		t.Fatalf("Tab never comes to %s, but to %q", name, went)
	}
	until("ns/shop")
	b.Keys(kb.Enter)
	b.Waits(`document.querySelector("[data-id='deploy/shop/web']")`)
	b.Ready()
	if at := page.Eval[place](b, read); at.Name != "ns/shop" {
		t.Errorf("a namespace that was opened loses the focus to %s", at.Name)
	}
	until("deploy/shop/web")
	b.Keys(kb.Enter)
	b.Waits(`document.querySelector("#panel")?.dataset.selected === "deploy/shop/web"`)
	b.Ready()
	if at := page.Eval[place](b, read); at.Name != "deploy/shop/web" {
		t.Errorf("a workload that was selected loses the focus to %s", at.Name)
	}
	until("close")
	b.Keys(kb.Enter)
	b.Waits(`document.querySelector("#panel").hidden`)
	if at := page.Eval[place](b, read); at.Name != "deploy/shop/web" {
		t.Errorf("the focus goes from the details to %s", at.Name)
	}
	until("matrix")
	b.Keys(kb.Enter)
	b.Waits(`document.querySelector(".grid")`)
	b.Ready()
	until("job/batch/report to deploy/shop/api")
	b.Keys(kb.ArrowDown)
	b.Keys(kb.ArrowDown, kb.ArrowDown, kb.ArrowUp, kb.ArrowLeft, kb.ArrowRight, kb.ArrowRight)
	at := page.Eval[place](b, read)
	if !strings.Contains(at.Name, " to ") {
		t.Fatalf("arrows in the matrix lead to %s", at.Name)
	}
	b.Keys(kb.Enter)
	b.Waits(fmt.Sprintf(`document.querySelector("#panel")?.dataset.explained === %q`, strings.Replace(at.Name, " to ", " ", 1)))
	b.Keys(kb.Escape)
	b.Waits(`document.querySelector("#panel").hidden`)
	if back := page.Eval[place](b, read); back.Name != at.Name {
		t.Errorf("the focus goes from the details to %s, and was at %s", back.Name, at.Name)
	}
	// Out of the table in one step, and back into the cell that one was at.
	b.Do(chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift)))
	if page.Eval[bool](b, `document.activeElement.closest(".grid") !== null`) {
		t.Error("Shift and Tab do not lead out of the matrix")
	}
	until(at.Name)
	b.Keys("?")
	b.Waits(`document.querySelector("#keys").open`)
	b.Keys(kb.Escape)
	b.Waits(`!document.querySelector("#keys").open`)
	if back := page.Eval[place](b, read); back.Name != at.Name {
		t.Errorf("the focus goes from the help to %s, and was at %s", back.Name, at.Name)
	}
}
