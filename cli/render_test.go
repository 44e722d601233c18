package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// samplePods run at the samples' policies, which are applied with Deployments
// and so come without pods.
const samplePods = `apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: backend, namespace: shop, labels: {app: backend}},
   spec: {nodeName: node-1, containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]},
   status: {phase: Running, podIPs: [{ip: 10.244.1.2}, {ip: "fd00:244::2"}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop-db, labels: {app: db}},
   spec: {nodeName: node-1, containers: [{name: c, image: i, ports: [{name: postgres, containerPort: 5432}]}]},
   status: {phase: Running, podIPs: [{ip: 10.244.1.3}, {ip: "fd00:244::3"}]}}
- {apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDRs: [10.244.1.0/24, "fd00:244::/64"]}}
`

// samples is a folder of the samples' policies, with pods.
func samples(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "pods.yaml"), samplePods)
	for _, name := range []string{"namespaces.yaml", "default_deny.yaml", "allow_dns.yaml", "frontend.yaml", "backend.yaml", "db.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "config", "samples", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, name), string(text))
	}
	return folder
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRender(t *testing.T) {
	folder := samples(t)
	for _, c := range []struct {
		args    []string
		want    string
		wantErr string // on stderr
	}{
		{[]string{"--node", "node-1"}, "ingress[0]", ""},
		{[]string{"--node", "node-1", "--staged"}, "table inet podfence-staged", ""},
		{[]string{"--node", "node-1", "--deny", "reject"}, "reject with icmpx admin-prohibited", ""},
		{[]string{"--node", "node-1", "--pod-to-node", "allow"}, "chain egress-forward", ""},
		{[]string{"--node", "node-1", "--cni", "bridge"}, "chain tunnel-input", ""},
		{[]string{"--node", "node-1", "--cni", "bridge", "--routing", "host-gw"}, "chain postrouting-masquerade", ""},
		{[]string{"--node", "node-1", "--cni", "bridge"}, "chain sources-prerouting", ""},
		{[]string{"--node", "node-1", "--source-check", "on"}, "chain sources-prerouting", ""},
		{[]string{"--node", "node-1", "--cni", "chained"}, "chain egress-forward", ""},
		{[]string{"--node", "elsewhere"}, "chain egress-forward", `no live pod with an address has spec.nodeName "elsewhere"`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			text, stderr, err := run(t, append([]string{"render", "-f", folder}, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, c.want) {
				t.Errorf("no %q in\n%s", c.want, text)
			}
			if !strings.Contains(stderr, c.wantErr) || (c.wantErr == "" && stderr != "") {
				t.Errorf("stderr is %q, want %q", stderr, c.wantErr)
			}
			again, _, err := run(t, append([]string{"render", "-f", folder}, c.args...)...)
			if err != nil || again != text {
				t.Errorf("rendered again it differs: %v", err)
			}
			accepted(t, text)
		})
	}
	t.Run("node from the environment", func(t *testing.T) {
		t.Setenv("PODFENCE_NODE", "node-1")
		text, _, err := run(t, "render", "-f", folder)
		if err != nil || !strings.Contains(text, "10.244.1.3 : jump ingress-") {
			t.Errorf("%v:\n%s", err, text)
		}
	})
}

// TestRenderAsTheAgent: with the agent's flags, what is printed is the agent's table,
// as docs/RULESET.md shows it.
func TestRenderAsTheAgent(t *testing.T) {
	render := func(args ...string) string {
		text, _, err := run(t, append([]string{"render", "-f", "../ruleset/testdata/masquerade.yaml", "--node", "node-1", "--revoked-mark", "0", "--nflog-group", "0"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	want, err := os.ReadFile("../ruleset/testdata/masquerade.nft")
	if err != nil {
		t.Fatal(err)
	}
	if text := render("--cni", "bridge"); text != string(want) {
		t.Errorf("it is not the golden file, but\n%s", text)
	}
	for _, c := range []struct {
		args []string
		lack []string
	}{
		{[]string{"--cni", "bridge", "--routing", "host-gw"}, []string{"tunnel"}},
		{[]string{"--cni", "chained"}, []string{"tunnel", "masquerade", "ports-prerouting", "sources"}},
		{[]string{"--cni", "bridge", "--source-check", "off"}, []string{"sources", "fib"}},
		{nil, []string{"tunnel", "masquerade", "ports-prerouting"}},
	} {
		text := render(c.args...)
		for _, lack := range c.lack {
			if strings.Contains(text, lack) {
				t.Errorf("%v: %q in\n%s", c.args, lack, text)
			}
		}
	}
}

// accepted checks that nft takes a ruleset, in a network namespace of its own.
func accepted(t *testing.T, text string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("nft needs root, even to check: skipped")
	}
	check := func(text string) (string, error) {
		cmd := exec.Command("nft", "-c", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := check(text)
	if err == nil {
		return
	}
	// nft 1.0.6 writes for this what newer kernels refuse (ruleset/kernel/rules.go).
	const least = `table inet least {
		set s { type inet_proto . inet_service; flags interval; }
		chain c { meta l4proto . th dport @s; }
	}
	`
	// Nothing else that may be wrong, such as nft missing, is a reason to skip.
	if why, _ := check(least); strings.Contains(why, "Operation not supported") && strings.Contains(text, "meta l4proto . th dport @") {
		t.Skipf("skipped: this nft can load no ports on this kernel: %s", why)
	}
	t.Errorf("nft -c: %v: %s\n%s", err, out, text)
}

func TestRenderSaysWhereItIsWrong(t *testing.T) {
	folder := samples(t)
	path := filepath.Join(folder, "broken.yaml")
	for _, c := range []struct{ name, text, want string }{
		{"no YAML", "a: b\nc: [d\n", path + ":"},
		{"unknown field", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  lables: {a: b}\n", path + ":5: "},
		{"refused value", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec:\n  podSelector: {}\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/99}\n", path + ":8: "},
		{"refused value, of the cluster's", "apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: x}\nspec:\n  tier: Admin\n  priority: 1\n  subject: {}\n", path + ":7: "},
		{"unknown kind", "apiVersion: v1\nkind: Nodes\nmetadata: {name: x}\n", path + ":2: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, path, c.text)
			stdout, _, err := run(t, "render", "-f", folder, "--node", "node-1")
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("the error is %v, want %s...", err, c.want)
			}
			if stdout != "" {
				t.Errorf("half a ruleset is worse than none: %s", stdout)
			}
		})
	}
}

// TestRenderSamples: the samples that podfence ships render before anything of them runs, by pods that
// stand for those of their Deployments.
func TestRenderSamples(t *testing.T) {
	cmd := Command("test")
	var out, said strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(&said)
	cmd.SetArgs([]string{"render", "-f", "../config/samples", "--node", "node-1"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"shop/frontend-0 {", "shop-db/db-0 {", `comment "ingress[0]"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the ruleset has no %q", want)
		}
	}
	for _, want := range []string{"placeholders are the addresses of the pods of Deployment shop/", "Kustomization"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it says %q, without %q", said.String(), want)
		}
	}
}
