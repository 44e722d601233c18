//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/test/check"
)

// TestObserve: of a connection that a policy denies, kubectl podfence observe and Hubble's own CLI tell on a real
// cluster, in each family, with both pods and the policy; what podfence prints to explain it explains it; and
// of one that is allowed they tell while somebody observes.
func TestObserve(t *testing.T) {
	p, s := newPlugin(t), newAsked(t)
	enforce(t, s.policy("client"))
	expectWays(t, "the server to let the client in", s.http(t, s.client), s.http(t, s.stranger))
	families := podIPs(s.server)
	// A flow is told once in ten seconds, so the server's port 8081 is tried, which nobody has yet.
	expectWays(t, "the server's other port to be closed", nil, ways("stranger to server", netnsOf(t, s.stranger), families, 8081, 0))

	denials := func() (all []flows.Flow) {
		t.Helper()
		code, out, errOut := p.call(t, "observe", "-n", s.namespace, "--last", "100", "--port", "8081", "-o", "json")
		if code != 0 {
			t.Fatalf("observe: exit code %d: %s", code, errOut)
		}
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			var f flows.Flow
			if err := json.Unmarshal([]byte(line), &f); err == nil && f.Source.Pod == "stranger" {
				all = append(all, f)
			}
		}
		return all
	}
	check.Eventually(t, 10*time.Second, "a denial in each family", func() error {
		if all := denials(); len(all) < len(families) {
			return fmt.Errorf("%d denials are told, with %d families", len(all), len(families))
		}
		return nil
	})
	for _, f := range denials() {
		want := flows.Policy{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: s.namespace, Name: "server"}
		if f.Node != "node2" || f.Direction != flows.Ingress || f.Reason != flows.DefaultDeny || f.Destination.Pod != "server" || !slices.Equal(f.Policies, []flows.Policy{want}) {
			t.Errorf("%+v", f)
		}
	}
	_, out, _ := p.call(t, "observe", "-n", s.namespace, "--last", "100", "--port", "8081")
	explain := regexp.MustCompile(`(?m)^\s+kubectl podfence (explain .*)$`).FindStringSubmatch(out)
	if explain == nil {
		t.Fatalf("no command explains it:\n%s", out)
	}
	p.expect(t, 1, []string{"DENIED", "nearest miss"}, strings.Fields(explain[1])...)

	hubble := hubbleProgram(t, "hubble")
	server := portForward(t, "pod/"+agentPods(t)["node2"].Name, 4244)
	observe := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		out, err := theCluster.BesideKubectl(ctx, hubble, append([]string{"observe", "--server", server, "--print-policy-names"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("hubble observe %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	said := observe("--verdict", "DROPPED", "--namespace", s.namespace, "--last", "100")
	for _, text := range []string{s.namespace + "/stranger", s.namespace + "/server:8081", "DROPPED", s.namespace + "/server"} {
		if !strings.Contains(said, text) {
			t.Errorf("hubble does not say %q:\n%s", text, said)
		}
	}
	following := theCluster.BesideKubectl(t.Context(), hubble, "observe", "--server", server, "--verdict", "FORWARDED", "--pod", s.namespace+"/client", "--follow")
	var lines strings.Builder
	following.Stdout, following.Stderr = &lines, &lines
	check.NoError(t, following.Start())
	time.Sleep(2 * time.Second)
	expectWays(t, "the client to be let in", s.http(t, s.client), nil)
	time.Sleep(2 * time.Second)
	check.NoError(t, following.Process.Kill())
	_ = following.Wait() // which was killed
	if !strings.Contains(lines.String(), s.namespace+"/server:8080") {
		t.Errorf("of the connection that is let pass, hubble says:\n%s", lines.String())
	}
}

// portForward makes a port of a pod or Service of podfence's namespace, such as pod/NAME, one of this machine's
// until the test ends, and returns its address.
func portForward(t *testing.T, of string, port int) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := theCluster.KubectlCommand(ctx, "port-forward", "-n", "podfence-system", of, fmt.Sprintf(":%d", port))
	check.NoError(t, err)
	out := check.Value(cmd.StdoutPipe())(t)
	check.NoError(t, cmd.Start())
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	buffer := make([]byte, 256)
	n, err := io.ReadAtLeast(out, buffer, 20)
	check.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	local := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(string(buffer[:n]))
	if local == "" {
		t.Fatalf("port-forward says %q", buffer[:n])
	}
	return local
}
