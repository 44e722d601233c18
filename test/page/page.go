// Package page opens a page in a real browser, headless Chromium, for tests: what it shows, by JavaScript, and what it has
// done that it should not, such as ask another server than its own.
package page

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Browser is a tab of a browser.
type Browser struct {
	t       testing.TB
	ctx     context.Context
	address string
	// pictures is the folder for what was seen.
	pictures string

	mu sync.Mutex
	// wrong is what the page has complained of, and whom it has asked beside its own server.
	wrong []string
}

// Open opens a browser for the page at an address, in a colour scheme: light or dark. What the page complains of, and each
// request to another server, is an error of the test.
func Open(t testing.TB, pictures, address, scheme string) *Browser {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		t.Fatal("there is no chromium: test/packages.sh installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // root has none
		chromedp.ExecPath("chromium"), chromedp.WindowSize(1400, 860),
	)
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	b := &Browser{t: t, ctx: ctx, address: address, pictures: pictures}
	own, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.wrong = append(b.wrong, "exception: "+fmt.Sprintf("%+v", e.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
				b.wrong = append(b.wrong, fmt.Sprintf("console: %+v", e.Args))
			}
		case *log.EventEntryAdded: // such as what the page's own policy forbids; answers that are errors are the page's to show
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
				b.wrong = append(b.wrong, fmt.Sprintf("%s: %s", e.Entry.Source, e.Entry.Text))
			}
		case *network.EventRequestWillBeSent:
			if to, err := url.Parse(e.Request.URL); err != nil || to.Host != own.Host && to.Scheme != "data" {
				b.wrong = append(b.wrong, "asks "+e.Request.URL)
			}
		case *network.EventLoadingFailed:
			if e.BlockedReason != "" {
				b.wrong = append(b.wrong, "blocked: "+string(e.BlockedReason))
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, text := range b.wrong {
			t.Errorf("the page: %s", text)
		}
	})
	b.Do(Call(network.Enable, network.EnableParams{}),
		Call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}))
	return b
}

// Do does what the browser is told.
func (b *Browser) Do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// Call calls a command of the browser's protocol.
func Call[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// Visit shows a view, and waits until it is loaded.
func (b *Browser) Visit(hash string) {
	b.t.Helper()
	if Eval[bool](b, fmt.Sprintf(`location.href.startsWith(%q)`, b.address)) { // what a change would do is kept by the page
		Eval[bool](b, fmt.Sprintf(`(document.body.dataset.ready = "false", location.hash === %q ? dispatchEvent(new Event("hashchange")) : location.hash = %q, true)`, hash, hash))
	} else {
		b.Do(chromedp.Navigate(b.address + hash))
	}
	b.Ready()
}

// Ready waits until a view has loaded.
func (b *Browser) Ready() {
	b.t.Helper()
	b.Waits(`document.body?.dataset.ready === "true"`)
}

// Waits waits until a text of JavaScript is true.
func (b *Browser) Waits(js string) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if Eval[bool](b, "!!("+js+")") {
			return
		}
	}
	b.Picture("failed-" + strings.ReplaceAll(b.t.Name(), "/", "-"))
	b.t.Fatalf("not so within 20 s: %s\nThe page shows:\n%s", js, Eval[string](b, "document.body.innerText"))
}

// Eval is what a text of JavaScript is.
func Eval[T any](b *Browser, js string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%v: %s", err, js)
	}
	return value
}

// Click clicks what a selector finds first.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	Eval[bool](b, fmt.Sprintf(`document.querySelector(%q).dispatchEvent(new MouseEvent("click", {bubbles: true}))`, selector))
}

// Press presses the mouse's button where an element is seen, as a hand would: what covers the element is pressed instead.
func (b *Browser) Press(selector string) {
	b.t.Helper()
	x, y := b.Middle(selector)
	b.Do(chromedp.MouseClickXY(x, y))
}

// Middle is where on the screen the middle of an element is, and of a line of a drawing a point that is on it.
func (b *Browser) Middle(selector string) (x, y float64) {
	b.t.Helper()
	at := Eval[[]float64](b, fmt.Sprintf(`(() => {
		const e = document.querySelector(%q)
		if (e instanceof SVGPathElement) {
			const p = e.getPointAtLength(e.getTotalLength() / 2).matrixTransform(e.getScreenCTM())
			return [p.x, p.y]
		}
		e.scrollIntoView({block: "nearest", inline: "nearest"})
		const r = e.getBoundingClientRect()
		return [r.x + r.width / 2, r.y + r.height / 2]
	})()`, selector))
	return at[0], at[1]
}

// Drag moves the mouse, with its button held, from a point of the screen.
func (b *Browser) Drag(x, y, byX, byY float64) {
	b.t.Helper()
	b.Do(chromedp.MouseEvent(input.DispatchMouseEventTypeMousePressed, x, y, chromedp.ButtonLeft),
		chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x+byX/2, y+byY/2, chromedp.ButtonLeft),
		chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x+byX, y+byY, chromedp.ButtonLeft),
		chromedp.MouseEvent(input.DispatchMouseEventTypeMouseReleased, x+byX, y+byY, chromedp.ButtonLeft))
}

// Wheel turns the mouse's wheel at a point of the screen.
func (b *Browser) Wheel(x, y, by float64) {
	b.t.Helper()
	b.Do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseWheel, x, y, func(p *input.DispatchMouseEventParams) {
		p.DeltaX, p.DeltaY = 1e-6, by // what is zero is not sent, and both are wanted
	}))
}

// Keys presses keys, one after the other.
func (b *Browser) Keys(all ...string) {
	b.t.Helper()
	for _, key := range all {
		b.Do(chromedp.KeyEvent(key))
	}
}

// Picture keeps what is seen.
func (b *Browser) Picture(name string) {
	b.t.Helper()
	image, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll(b.pictures, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.pictures, name+".png"), image, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
