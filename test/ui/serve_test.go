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
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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

// pictures is where what was seen is kept.
const pictures = "../../bin/ui-screenshots"

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

// written is a file with a text.
func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
