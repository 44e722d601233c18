package ui

import (
	"testing"

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
