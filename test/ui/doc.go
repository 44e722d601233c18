// Package ui drives the page of kubectl podfence ui in a real browser, headless Chromium, and holds what it reads there
// against what kubectl podfence reach, explain and diff print for the same objects.
//
//	serve_test.go       the plugin that serves the page, and an agent that tells flows
//	views_test.go       what each view shows
//	change_test.go      what a change would do
//	mouse_test.go       the map as a hand goes through it, lines of it, and the way back
//	flows_test.go       flows as observe prints them, filters, and text that would be markup
//	keyboard_test.go    the same without a mouse
//	bench_test.go       how long it takes with 20,000 pods
//	accessible_test.go  axe-core finds nothing serious, light and dark
//
// What it saw is kept as pictures in bin/ui-screenshots.
package ui
