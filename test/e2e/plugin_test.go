//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/commands"
	"github.com/podfence/podfence/test/check"
)

// plugin calls the built binary of kubectl podfence, as cluster admin.
type plugin struct{ folder string }

// newPlugin builds it.
func newPlugin(t *testing.T) plugin {
	t.Helper()
	folder := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(folder, "kubectl-podfence"), "../../kubectl-podfence")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	return plugin{folder}
}

// call calls kubectl podfence, and returns its exit code and what it prints.
func (p plugin) call(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd, err := theCluster.KubectlCommand(ctx, append([]string{"podfence"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "PATH="+p.folder+":"+os.Getenv("PATH"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// expect calls it and expects an exit code, and that it says something.
func (p plugin) expect(t *testing.T, code int, says []string, args ...string) (out string) {
	t.Helper()
	got, out, errOut := p.call(t, args...)
	if got != code {
		t.Errorf("kubectl podfence %s: exit code %d instead of %d:\n%s%s", strings.Join(args, " "), got, code, out, errOut)
	}
	for _, text := range says {
		if !strings.Contains(out+errOut, text) {
			t.Errorf("kubectl podfence %s: nothing says %q:\n%s%s", strings.Join(args, " "), text, out, errOut)
		}
	}
	return out
}

// asked is what questions are asked about: a server on node2, which lets in clients on port 8080, and no UDP.
type asked struct {
	namespace               string
	client, stranger, other *corev1.Pod // the first two on node1
	server                  *corev1.Pod
}

func newAsked(t *testing.T) *asked {
	t.Helper()
	s := &asked{namespace: newNamespace(t)}
	pods := start(t, newPod(s.namespace, "client", on("node1")), newPod(s.namespace, "stranger", on("node1")), newPod(s.namespace, "other", on("node2")), newPod(s.namespace, "server", on("node2")))
	s.client, s.stranger, s.other, s.server = pods[0], pods[1], pods[2], pods[3]
	_, err := client.CoreV1().Services(s.namespace).Create(context.Background(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "server"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// policy lets pods of an application in at the server's port 8080.
func (s *asked) policy(app string) *networkingv1.NetworkPolicy {
	port := intstr.FromInt32(8080)
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "server"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "server"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
			}},
		},
	}
}

// letsIn changes the server's policy.
func (s *asked) letsIn(t *testing.T, app string) {
	t.Helper()
	if _, err := client.NetworkingV1().NetworkPolicies(s.namespace).Update(context.Background(), s.policy(app), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// http is the way from a pod to the server's port 8080, in its first family.
func (s *asked) http(t *testing.T, from *corev1.Pod) []way {
	t.Helper()
	return ways(from.Name+" to server", netnsOf(t, from), podIPs(s.server)[:1], 8080, 0)
}

// TestPlugin: kubectl podfence, as it is built and as kubectl calls it, says of a real cluster what really
// happens there.
func TestPlugin(t *testing.T) {
	p, s := newPlugin(t), newAsked(t)
	t.Run("explain", func(t *testing.T) { explains(t, p, s) })
	t.Run("verify", func(t *testing.T) { verifies(t, p, s) })
	t.Run("differs", func(t *testing.T) { differs(t, p, s) })
	t.Run("status", func(t *testing.T) { statuses(t, p, s) })
	t.Run("version", func(t *testing.T) { versions(t, p) })
	t.Run("reach", func(t *testing.T) { reaches(t, p, s) })
	t.Run("diff", func(t *testing.T) { diffs(t, p, s) })
	t.Run("lint", func(t *testing.T) { lints(t, p, s) })
	t.Run("test", func(t *testing.T) { tests(t, p, s) })
}

// explains: what it says is what connections get, with the policy, and the near miss of who is denied.
func explains(t *testing.T, p plugin, s *asked) {
	expectWays(t, "all ways without policy", slices.Concat(s.http(t, s.client), s.http(t, s.stranger)), nil)
	p.expect(t, 0, []string{"ALLOWED"}, "explain", s.namespace+"/stranger", s.namespace+"/server:8080")
	enforce(t, s.policy("client"))
	expectWays(t, "the server to let the client in", s.http(t, s.client), s.http(t, s.stranger))
	p.expect(t, 0, []string{"ALLOWED", "by Service " + s.namespace + "/server port 80", "NetworkPolicy " + s.namespace + "/server spec.ingress[0]"},
		"explain", "-n", s.namespace, "client", "svc/server:http")
	p.expect(t, 1, []string{"DENIED", "(node node2)", "nearest miss: NetworkPolicy " + s.namespace + "/server spec.ingress[0]", "app=client"},
		"explain", "-n", s.namespace, "stranger", "server:8080")
	p.expect(t, 0, []string{"open are TCP 8080"}, "explain", "-n", s.namespace, "client", "server")
	p.expect(t, 2, []string{"there is no Pod " + s.namespace + "/nobody"}, "explain", "-n", s.namespace, "nobody", "server")
}

// verifies: the kernels of both nodes are asked, about each family, and which flows there are, before and
// after they are revoked.
func verifies(t *testing.T, p plugin, s *asked) {
	enforce(t, s.policy("client"))
	expectWays(t, "the server to let the client in", s.http(t, s.client), s.http(t, s.stranger))
	families := len(podIPs(s.server))
	kept := keepTalking(t, s.client, podIPs(s.server)[0])
	for _, c := range []struct {
		from, to string
		code     int
		node     string
		says     string
	}{
		{"client", "server:8080", 0, "node1", "allowed"},
		{"client", "server:8080", 0, "node2", "allowed by accept in chain"},
		{"stranger", "server:8080", 1, "node1", "allowed"},
		{"stranger", "server:8080", 1, "node2", "denied by drop in chain ingress-"},
		{"other", "server:8080", 1, "node2", "denied by drop in chain ingress-"},
		{"client", "svc/server:80", 0, "node2", "allowed by accept in chain"},
		{"client", "server:8081/UDP", 1, "node2", "denied by drop in chain"},
		{"node/node2", s.namespace + "/server:8081/UDP", 0, "node2", "allowed"},
		{"node/node1", s.namespace + "/server:8081/UDP", 1, "node2", "denied by drop"},
		{"server", "client:8080", 0, "node1", "allowed"},
	} {
		out := p.expect(t, c.code, nil, "explain", "--verify", "-n", s.namespace, c.from, c.to)
		families := families
		if strings.HasPrefix(c.to, "svc/") {
			families = 1 // the Service has an address of one family
		}
		if got := len(regexp.MustCompile("kernel of node "+c.node+` \([^)]*\): `+c.says).FindAllString(out, -1)); got != families {
			t.Errorf("explain --verify %s %s: kernel of %s: %s is said %d times, with %d families:\n%s", c.from, c.to, c.node, c.says, got, families, out)
		}
	}
	flows := func() (count, revoked int) {
		t.Helper()
		_, out, errOut := p.call(t, "explain", "--verify", "-n", s.namespace, "client", "server:8080", "-o", "json")
		var e explain.Explanation
		if err := json.Unmarshal([]byte(out), &e); err != nil {
			t.Fatalf("%v: %s%s", err, out, errOut)
		}
		for _, a := range e.Answers {
			for _, v := range a.Kernel {
				if v.Node == "node2" && v.Trace != nil {
					count, revoked = count+v.Trace.FlowCount, revoked+v.Trace.RevokedCount
				}
			}
		}
		return count, revoked
	}
	if count, revoked := flows(); count == 0 || revoked != 0 {
		t.Errorf("while the client talks: %d flows, of which %d are revoked", count, revoked)
	}
	s.letsIn(t, "stranger")
	expectWays(t, "the client to be denied", s.http(t, s.stranger), s.http(t, s.client))
	kept.end()
	if count, revoked := flows(); revoked == 0 {
		t.Errorf("once the client is denied: %d flows, of which %d are revoked", count, revoked)
	}
}

// differs: a node that does not hear of changes does another thing than policies say, and --verify says so, and
// with which rule.
func differs(t *testing.T, p plugin, s *asked) {
	enforce(t, s.policy("client"))
	expectWays(t, "the server to let the client in", s.http(t, s.client), s.http(t, s.stranger))
	hear := deafen(t, "node2")
	s.letsIn(t, "stranger")
	time.Sleep(2 * time.Second)
	expectWays(t, "the old policy to be in force at a node that does not hear of the new one", s.http(t, s.client), s.http(t, s.stranger))
	p.expect(t, 2, []string{"DENIED", "kernel of node node2 (", ") DIFFERS: it is allowed by accept in chain", "and policies say denied", "the kernel of node node2 does not do what policies say"},
		"explain", "--verify", "-n", s.namespace, "client", "server:8080")
	p.expect(t, 2, []string{"ALLOWED", "kernel of node node2 (", ") DIFFERS: it is denied by drop in chain"}, "explain", "--verify", "-n", s.namespace, "stranger", "server:8080")
	hear()
	expectWays(t, "the new policy to be in force", s.http(t, s.stranger), s.http(t, s.client))
	p.expect(t, 1, nil, "explain", "--verify", "-n", s.namespace, "client", "server:8080")
}

// deafen has nothing that a node sends to the API server leave it. The function that it returns, and the end
// of the test, take that back.
func deafen(t *testing.T, node string) (hear func()) {
	t.Helper()
	const table = "e2e_deaf"
	run(t, node, "nft", "table inet "+table+" { chain output { type filter hook output priority filter; tcp dport 6443 drop; }; chain input { type filter hook input priority filter; tcp sport 6443 drop; }; }")
	gone := false
	hear = func() {
		if !gone {
			gone = true
			run(t, node, "nft", "delete table inet "+table)
		}
	}
	t.Cleanup(hear)
	return hear
}

// statuses: a row for each node, whose counts are those of the cluster, and problems of policies with field and
// reason.
func statuses(t *testing.T, p plugin, s *asked) {
	agentsReady(t)
	storeBrokenPolicy(t, s.namespace)
	check.Eventually(t, seenWithin, "both agents to say what is wrong with a policy", func() error {
		code, out, errOut := p.call(t, "status", "-n", s.namespace, "-o", "json")
		var status commands.Status
		if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 {
			return fmt.Errorf("exit code %d, %w: %s%s", code, err, out, errOut)
		}
		if len(status.Problems) != 1 || len(status.Problems[0].Nodes) != 2 || status.Problems[0].Name != "broken" || status.Problems[0].Field != "spec.ingress[0].from[0].ipBlock.cidr" && status.Problems[0].Field != "spec.ingress[0].from[0].ipBlock" {
			return fmt.Errorf("problems: %+v", status.Problems)
		}
		return sameCounts(t, status)
	})
	p.expect(t, 0, []string{"node1 ", "node2 ", "Ready", "owned", "Problems of policies:", "NetworkPolicy " + s.namespace + "/broken", "2 of 2"}, "status")
	p.expect(t, 0, []string{"bridge", "podfence-agent-"}, "status", "-o", "wide", "--no-headers")
}

// versions: each agent says what it was built of, as its image's tag is.
func versions(t *testing.T, p plugin) {
	agentsReady(t)
	out := p.expect(t, 0, []string{"k8s.io/api: v"}, "version", "-o", "yaml")
	var v commands.Versions
	if err := yaml.UnmarshalStrict([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	for i, node := range bothNodes {
		agent := v.Agents[i]
		if agent.Node != node || agent.Build == nil || !strings.HasSuffix(theImage, ":"+agent.Build.Version) || agent.Build.Commit == "" || agent.Build.Date == "" ||
			agent.Build.GoVersion == "" || agent.Build.Modules["sigs.k8s.io/network-policy-api"] == "" || agent.Build.Modules["sigs.k8s.io/controller-runtime"] == "" {
			t.Errorf("the agent of %s, with the image %s: %+v", node, theImage, agent)
		}
	}
}

// sameCounts holds the pods that agents count against those that the API has on their nodes.
func sameCounts(t *testing.T, status commands.Status) error {
	t.Helper()
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	want := map[string]int{}
	for _, pod := range pods.Items {
		if !pod.Spec.HostNetwork && pod.Status.PodIP != "" && pod.Status.Phase == corev1.PodRunning {
			want[pod.Spec.NodeName]++
		}
	}
	for _, node := range status.Nodes {
		if node.Answer == nil || node.Answer.Pods.Fenced != want[node.Node] || !node.Answer.OwnsTables || node.State != commands.Ready {
			return fmt.Errorf("node %s: %+v, and the API has %d pods there", cmp.Or(node.Node, node.Agent), node, want[node.Node])
		}
	}
	return nil
}

// tests: expectations are held against the cluster.
func tests(t *testing.T, p plugin, s *asked) {
	enforce(t, s.policy("client"))
	file := filepath.Join(t.TempDir(), "tests.yaml")
	write := func(expect string) {
		t.Helper()
		text := fmt.Sprintf("apiVersion: explain.podfence.io/v1\nkind: PolicyTest\ntests:\n- {from: %[1]s/client, to: 'svc/%[1]s/server:80', expect: allow, by: %[1]s/server}\n- {from: %[1]s/stranger, to: '%[1]s/server:8080', expect: %[2]s}\n", s.namespace, expect)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("deny")
	p.expect(t, 0, nil, "test", file)
	p.expect(t, 0, []string{"<testsuite"}, "test", file, "-o", "junit")
	write("allow")
	p.expect(t, 1, []string{s.namespace + "/stranger"}, "test", file)
}

// reaches: who reaches the server is who really does.
func reaches(t *testing.T, p plugin, s *asked) {
	enforce(t, s.policy("client"))
	expectWays(t, "the server to let the client in", s.http(t, s.client), s.http(t, s.stranger))
	p.expect(t, 0, []string{s.namespace + "/client", "TCP 8080", "nodes "}, "reach", "-n", s.namespace, "server")
	names := p.expect(t, 0, nil, "reach", "-n", s.namespace, "server", "-o", "json")
	var r explain.Reach
	if err := json.Unmarshal([]byte(names), &r); err != nil {
		t.Fatalf("%v: %s", err, names)
	}
	from := map[string]bool{}
	for _, row := range r.Ingress {
		from[row.From.Name] = true
	}
	if !from["client"] || from["stranger"] || from["other"] {
		t.Errorf("the server is reached by %v:\n%s", from, names)
	}
	p.expect(t, 0, []string{"FROM \\ TO", "8080"}, "reach", "--matrix", "-n", s.namespace)
	p.expect(t, 0, []string{"<svg"}, "reach", "ns/"+s.namespace, "-o", "svg")
}

// diffs: what a changed policy would open and close is what it does once it is applied.
func diffs(t *testing.T, p plugin, s *asked) {
	enforce(t, s.policy("client"))
	expectWays(t, "the server to let the client in", s.http(t, s.client), s.http(t, s.stranger))
	changed := s.policy("stranger")
	changed.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}
	file := filepath.Join(t.TempDir(), "changed.json")
	text, err := json.Marshal(changed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.expect(t, 1, []string{
		"OPENED  " + s.namespace + "/stranger -> " + s.namespace + "/server  TCP 8080",
		"CLOSED  " + s.namespace + "/client -> " + s.namespace + "/server  TCP 8080",
	}, "diff", "-f", file)
	kubectl(t, "apply", "-f", file)
	expectWays(t, "the changed policy", s.http(t, s.stranger), s.http(t, s.client))
	if out := p.expect(t, 0, nil, "diff", "-f", file); out != "" {
		t.Errorf("of what is applied: %s", out)
	}
}

// lints: a slip is found, and one that is right is not.
func lints(t *testing.T, p plugin, s *asked) {
	enforce(t, s.policy("clinet"))
	p.expect(t, 1, []string{s.namespace + "/server spec.ingress[0].from[0].podSelector", "app=client", "[peer-matches-nothing]"}, "lint", "-n", s.namespace)
	p.expect(t, 1, []string{"networkpolicy.networking.k8s.io/server"}, "lint", "-n", s.namespace, "-o", "name")
	s.letsIn(t, "client")
	p.expect(t, 0, []string{"nothing found"}, "lint", "-n", s.namespace)
}
