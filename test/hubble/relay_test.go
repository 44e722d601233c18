//go:build hubble

package hubble

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/controllers/hubble"
)

// documented runs the commands of docs/HUBBLE.md that make certificates in a folder.
func documented(t *testing.T, folder string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/HUBBLE.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- certificates -->\n```sh\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("docs/HUBBLE.md does not say how to make certificates")
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", string(block[1]))
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the certificates: %v\n%s", err, out)
	}
}

// TestRelay: hubble-relay finds both nodes' agents by one of them, over mutual TLS, and merges their flows in
// the order of time.
func TestRelay(t *testing.T) {
	dir := t.TempDir()
	documented(t, dir)
	files := hubble.TLSFiles{Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key"), ClientCA: filepath.Join(dir, "ca.crt")}
	second := serve(t, "node-2", files, func() []hubble.Peer { return nil }, denial("node-2", 1), denial("node-2", 3))
	self := make(chan string, 1) // the address of node-1, once it is known
	peers := sync.OnceValue(func() []hubble.Peer {
		return []hubble.Peer{{Name: "node-1", Address: <-self}, {Name: "node-2", Address: second.address}}
	})
	first := serve(t, "node-1", files, peers, denial("node-1", 0), denial("node-1", 2))
	self <- first.address

	ctx, cancel := context.WithCancel(t.Context())
	address := freeAddress(t)
	relay := program(ctx, t, "hubble-relay", "serve", "--peer-service", first.address, "--listen-address", address, "--health-listen-address", freeAddress(t),
		"--gops=false", "--disable-server-tls", "--tls-hubble-server-ca-files", filepath.Join(dir, "ca.crt"),
		"--tls-hubble-client-cert-file", filepath.Join(dir, "client.crt"), "--tls-hubble-client-key-file", filepath.Join(dir, "client.key"))
	var log bytes.Buffer
	relay.Stdout, relay.Stderr = &log, &log
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = relay.Wait() // it was killed
		if t.Failed() {
			t.Logf("hubble-relay:\n%s", &log)
		}
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		out, err := program(ctx, t, "hubble", "list", "nodes", "--server", address).CombinedOutput()
		if err == nil && strings.Count(string(out), "Connected") == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("hubble list nodes: %v\n%s", err, out)
		}
	}
	ask := func(args ...string) (have []string) {
		for _, line := range observe(t, address, append(args, "--type", "drop", "-o", "json")...) {
			f := read(t, line)
			have = append(have, f.Flow.Time.Format(time.TimeOnly)+" "+f.NodeName)
		}
		return have
	}
	if have, want := ask("--last", "10"), []string{"12:00:00 node-1", "12:00:01 node-2", "12:00:02 node-1", "12:00:03 node-2"}; !slices.Equal(have, want) {
		t.Errorf("%q, want %q", have, want)
	}
	if have, want := ask("--last", "10", "--node-name", "node-2"), []string{"12:00:01 node-2", "12:00:03 node-2"}; !slices.Equal(have, want) {
		t.Errorf("of node-2: %q, want %q", have, want)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // the relay looks after its peers every 5 s
		out, err := program(ctx, t, "hubble", "status", "--server", address).CombinedOutput()
		if err == nil && strings.Contains(string(out), "Connected Nodes: 2/2") && strings.Contains(string(out), "4/128") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("hubble status: %v\n%s", err, out)
		}
	}
	// Without a certificate, nobody reads of an agent.
	if out, err := program(ctx, t, "hubble", "observe", "--server", "tls://"+first.address, "--tls-ca-cert-files", filepath.Join(dir, "ca.crt"),
		"--tls-server-name", "node-1.default.hubble-grpc.cilium.io").CombinedOutput(); err == nil {
		t.Errorf("a client without a certificate reads:\n%s", out)
	}
	if lines := observe(t, "tls://"+first.address, "--tls-ca-cert-files", filepath.Join(dir, "ca.crt"), "--tls-client-cert-file", filepath.Join(dir, "client.crt"),
		"--tls-client-key-file", filepath.Join(dir, "client.key"), "--tls-server-name", "node-1.default.hubble-grpc.cilium.io", "--type", "drop"); len(lines) != 2 {
		t.Errorf("a client with one reads:\n%s", strings.Join(lines, "\n"))
	}
}
