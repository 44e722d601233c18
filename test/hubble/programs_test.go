//go:build hubble

package hubble

import (
	"bytes"
	"context"
	"flag"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/hubble"
	"github.com/podfence/podfence/controllers/observer"
)

var programs = flag.String("programs", "", "folder with hubble and hubble-relay")

// program is one of Hubble's, with these arguments, and nothing of this machine's settings.
func program(ctx context.Context, t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(*programs, name), args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	return cmd
}

// observe runs hubble observe and returns the lines that it prints.
func observe(t *testing.T, server string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := program(ctx, t, "hubble", append([]string{"observe", "--server", server, "--time-format", "RFC3339", "--color", "never"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("hubble observe %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	if errs.Len() > 0 {
		t.Errorf("hubble observe %s says:\n%s", strings.Join(args, " "), &errs)
	}
	return lines(out.String())
}

func lines(text string) (all []string) {
	for line := range strings.Lines(text) {
		all = append(all, strings.TrimSuffix(line, "\n"))
	}
	return all
}

// freeAddress is a loopback address that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// node is an agent's server of Hubble's API.
type node struct {
	name, address string
	store         *observer.Store
}

// serve serves the flows of a node until the test has ended.
func serve(t *testing.T, name string, files hubble.TLSFiles, peers func() []hubble.Peer, all ...*flows.Flow) *node {
	t.Helper()
	n := &node{name, freeAddress(t), observer.NewStore(64, nil)}
	for _, f := range all {
		n.store.Add(f)
	}
	server, err := hubble.New(hubble.Options{
		Address: n.address, TLS: files, Node: name, Version: "v1.2.3", Store: n.store, Peers: peers, Log: testr.New(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for range 1000 {
		conn, err := net.Dial("tcp", n.address)
		if err == nil {
			conn.Close()
			return n
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not listen", name)
	return nil
}

// noon is when the flows of these tests begin.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pod(ip string, port uint16, namespace, name string) flows.Endpoint {
	app := name[:strings.LastIndex(name, "-")]
	return flows.Endpoint{
		IP: netip.MustParseAddr(ip), Port: port, Namespace: namespace, Pod: name, Labels: map[string]string{"app": app},
		Workload: &flows.Workload{Kind: "Deployment", Name: app},
	}
}

// denial is a default deny of shop/web-0 to shop/db-0, so many seconds after noon.
func denial(on string, second int) *flows.Flow {
	return &flows.Flow{
		Time: noon.Add(time.Duration(second) * time.Second), Node: on, Verdict: flows.Denied, Direction: flows.Ingress,
		Source: pod("10.244.2.3", 40000, "shop", "web-0"), Destination: pod("10.244.1.7", 5432, "shop", "db-0"),
		Protocol: "TCP", TCPFlags: "SYN", Reason: flows.DefaultDeny,
		Text:     "ingress of shop/db-0, by shop/db shop/default-deny",
		Policies: []flows.Policy{{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "db"}, {Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "default-deny"}},
	}
}

// ofNode are the flows of a node: a default deny, a packet that a rule denies, one with a false source, and
// a connection by a Service.
func ofNode(on string) []*flows.Flow {
	metadata, spoofed, asked := denial(on, 1), denial(on, 2), denial(on, 3)
	rule := 0
	metadata.Direction, metadata.Reason, metadata.Text, metadata.Destination = flows.Egress, flows.ByRule, "egress of shop/web-0, by ClusterNetworkPolicy egress[0] of no-metadata", flows.Endpoint{IP: netip.MustParseAddr("169.254.169.254"), Port: 80}
	metadata.Policies = []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Admin", Name: "no-metadata", Rule: &rule}}
	spoofed.Direction, spoofed.Reason, spoofed.Text, spoofed.Policies, spoofed.Source = "", flows.Spoofed, "it is not from a pod of this node", nil, flows.Endpoint{IP: netip.MustParseAddr("192.0.2.9"), Port: 1024}
	asked.Verdict, asked.Event, asked.Reason, asked.Text, asked.TCPFlags, asked.Protocol = flows.Allowed, flows.Began, "", "", "", "UDP"
	asked.Source, asked.Destination = pod("fd00::3", 41000, "shop", "web-0"), pod("fd00::53", 53, "kube-system", "dns-0")
	asked.Asked = &flows.Asked{Namespace: "kube-system", Service: "kube-dns", Port: 53}
	asked.Policies = asked.Policies[:1]
	return []*flows.Flow{denial(on, 0), metadata, spoofed, asked}
}

func TestMain(m *testing.M) {
	flag.Parse()
	if *programs == "" {
		println("make test-hubble builds hubble and hubble-relay, and runs this with -programs")
		os.Exit(1)
	}
	os.Exit(m.Run())
}
