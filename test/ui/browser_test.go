package ui

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
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
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/podfence/podfence/api/flows"
)

// plugin is the program, which TestMain builds.
var plugin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "podfence-ui-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	plugin = filepath.Join(dir, "kubectl-podfence")
	if out, err := exec.Command("go", "build", "-o", plugin, "../../kubectl-podfence").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the plugin: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// shop is the folder of the objects that the page is about.
const shop = "../../explain/testdata/shop/"

var shopFiles = []string{"-f", shop + "cluster.yaml", "-f", shop + "policies.yaml"}

// ask runs the plugin about the shop, and reads the JSON that it prints.
func ask[T any](t *testing.T, args ...string) (value T) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(plugin, append(args, "-o", "json")...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1 is an answer
		t.Fatalf("kubectl podfence %v: %v\n%s", args, err, &stderr)
	}
	if err := json.Unmarshal(out, &value); err != nil {
		t.Fatalf("kubectl podfence %v: %v", args, err)
	}
	return value
}

// serve runs kubectl podfence ui, and returns where the page is.
func serve(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, plugin, append([]string{"ui"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// agent is an agent that tells flows.
type agent struct {
	*httptest.Server
	told chan flows.Flow
}

// tells starts an agent. What is sent to told, it tells whoever follows.
func tells(t *testing.T) *agent {
	a := &agent{told: make(chan flows.Flow, 16)}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != flows.Path {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", flows.MediaType)
		fmt.Fprintln(w)
		w.(http.Flusher).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case f := <-a.told:
				line, _ := json.Marshal(f)
				fmt.Fprintf(w, "%s\n", line)
				w.(http.Flusher).Flush()
			}
		}
	}))
	t.Cleanup(func() {
		a.CloseClientConnections()
		a.Close()
	})
	return a
}

// browser is a tab of a browser.
type browser struct {
	t       testing.TB
	ctx     context.Context
	address string

	mu sync.Mutex
	// wrong is what the page has complained of, and whom it has asked beside its own server.
	wrong []string
}

// open opens the page in a new browser, in a colour scheme.
func open(t testing.TB, address, scheme string) *browser {
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
	b := &browser{t: t, ctx: ctx, address: address}
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
	b.do(call(network.Enable, network.EnableParams{}),
		call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}))
	return b
}

// do does what the browser is told.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// call calls a command of the browser's protocol.
func call[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// visit shows a view, and waits until it is loaded.
func (b *browser) visit(hash string) {
	b.t.Helper()
	if eval[bool](b, fmt.Sprintf(`location.href.startsWith(%q)`, b.address)) { // what a change would do is kept by the page
		eval[bool](b, fmt.Sprintf(`(document.body.dataset.ready = "false", location.hash === %q ? dispatchEvent(new Event("hashchange")) : location.hash = %q, true)`, hash, hash))
	} else {
		b.do(chromedp.Navigate(b.address + hash))
	}
	b.ready()
}

// ready waits until a view has loaded.
func (b *browser) ready() {
	b.t.Helper()
	b.waits(`document.body?.dataset.ready === "true"`)
}

// waits waits until a text of JavaScript is true.
func (b *browser) waits(js string) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if eval[bool](b, "!!("+js+")") {
			return
		}
	}
	b.picture("failed-" + strings.ReplaceAll(b.t.Name(), "/", "-"))
	b.t.Fatalf("not so within 20 s: %s\nThe page shows:\n%s", js, eval[string](b, "document.body.innerText"))
}

// eval is what a text of JavaScript is.
func eval[T any](b *browser, js string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%v: %s", err, js)
	}
	return value
}

// click clicks what a selector finds first.
func (b *browser) click(selector string) {
	b.t.Helper()
	eval[bool](b, fmt.Sprintf(`document.querySelector(%q).dispatchEvent(new MouseEvent("click", {bubbles: true}))`, selector))
}

// keys presses keys, one after the other.
func (b *browser) keys(all ...string) {
	b.t.Helper()
	for _, key := range all {
		b.do(chromedp.KeyEvent(key))
	}
}

// picture keeps what is seen.
func (b *browser) picture(name string) {
	b.t.Helper()
	image, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	dir := filepath.Join("..", "..", "bin", "ui-screenshots")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), image, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
