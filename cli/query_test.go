package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/podfence/podfence/api/answers"
)

// query asks an agent of the test's network namespace; of a failure it returns the message. The connection
// is made by the test's own thread, which alone is in the namespace.
func (a *agents) query(path string, answer any) string {
	a.t.Helper()
	conn, err := net.Dial("tcp", answers.DefaultAddress)
	if err != nil {
		a.t.Fatalf("ask the agent: %v", err)
	}
	defer conn.Close()
	request := httptest.NewRequest("GET", "http://"+answers.DefaultAddress+path, nil)
	request.Close = true
	if err := request.Write(conn); err != nil {
		a.t.Fatalf("ask the agent: %v", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		a.t.Fatalf("ask the agent: %v", err)
	}
	out, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatalf("ask the agent: %v", err)
	}
	var failure answers.Failure
	if err := json.Unmarshal(out, &failure); err != nil {
		a.t.Fatalf("%v: %s", err, out)
	}
	if failure.Kind == "Failure" {
		return failure.Message
	}
	if err := json.Unmarshal(out, answer); err != nil {
		a.t.Fatalf("%v: %s", err, out)
	}
	return ""
}

// TestQuery: a running agent says how it is, and what the kernel does to packets.
func TestQuery(t *testing.T) {
	a := newAgents(t)
	for _, args := range []string{"link set lo up", "link add d0 type veth peer name d1", "link set d0 up", "link set d1 up", "addr add 10.99.0.1/24 dev d0", "route add default dev d0"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	_, lines := a.start("--query-address", answers.DefaultAddress, "--deny", "reject")
	a.await(lines, "Replaced the table")
	a.await(lines, "A condition is over")
	var status answers.Status
	if failure := a.query(answers.StatusPath, &status); failure != "" {
		t.Fatal(failure)
	}
	if status.Node != "node-1" || !status.Ready || status.Source != "manifests" || !status.Options.Reject || status.Options.CNI != "none" ||
		status.AgentVersion != version || status.LastCommit == nil || status.Pods.Fenced != 2 || status.Policies.Total == 0 {
		t.Errorf("the status is %+v", status)
	}
	ask := func(src, dst netip.Addr, port int) (trace answers.Trace) {
		t.Helper()
		if failure := a.query(fmt.Sprintf("%s?src=%s&dst=%s&protocol=tcp&port=%d", answers.TracePath, src, dst, port), &trace); failure != "" {
			t.Fatal(failure)
		}
		return trace
	}
	outside, denied := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.244.1.3")
	before := ask(outside, denied, 1)
	last := before.Hooks[len(before.Hooks)-1]
	if before.Verdict != answers.Reject || last.Hook != "forward" || len(last.Steps) == 0 || before.FlowsError != "" {
		t.Errorf("a denied packet: %+v", before)
	}
	if own := ask(netip.MustParseAddr("10.99.0.1"), denied, 1); own.Hooks[0].Hook != "output" || own.Verdict != answers.Pass {
		t.Errorf("the node's own packet: %+v", own)
	}
	if failure := a.query(answers.TracePath+"?src=x", nil); !strings.Contains(failure, "src") {
		t.Errorf("the failure is %q", failure)
	}
}
