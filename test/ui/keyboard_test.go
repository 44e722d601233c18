package ui

import (
	"testing"

	"github.com/chromedp/chromedp/kb"
)

// TestKeyboard: the map and the matrix without a mouse.
func TestKeyboard(t *testing.T) {
	b := open(t, serve(t, shopFiles...), "light")
	b.visit("#map")
	focus := func() string {
		return eval[string](b, `document.activeElement?.dataset.id ?? document.activeElement?.id ?? ""`)
	}
	b.keys("/")
	if focus() != "map-q" {
		t.Errorf("/ goes to %q", focus())
	}
	for range 20 {
		if focus() == "ns/shop" {
			break
		}
		b.keys(kb.Tab)
	}
	b.keys(kb.Enter)
	b.waits(`document.querySelector("[data-id='deploy/shop/web']")`)
	b.ready()
	if focus() == "" {
		t.Error("the focus is lost when a namespace is opened")
	}
	b.keys(kb.Escape)
	b.waits(`document.querySelector("#panel").hidden`)
	before := eval[string](b, `document.querySelector("svg.map").getAttribute("viewBox")`)
	eval[bool](b, `(document.querySelector('[data-id="deploy/shop/web"]').focus(), true)`)
	b.keys("+", kb.ArrowRight)
	if after := eval[string](b, `document.querySelector("svg.map").getAttribute("viewBox")`); after == before {
		t.Error("+ and an arrow do not move the map")
	}
	b.visit("#matrix")
	eval[bool](b, `(document.querySelector('.grid button[tabindex="0"]').focus(), true)`)
	b.keys(kb.ArrowDown, kb.ArrowRight, kb.Enter)
	b.waits(`document.querySelector("#panel")?.dataset.explained === "deploy/shop/api sts/shop/db"`)
	if n := eval[int](b, `document.querySelectorAll('.grid button[tabindex="0"]').length`); n != 1 {
		t.Errorf("Tab stops at %d cells", n)
	}
	b.keys("?")
	b.waits(`document.querySelector("#keys").open`)
}
