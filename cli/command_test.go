package cli

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// version is the one that podfence prints and logs in these tests.
const version = "v1.2.3-test"

// run runs podfence with these arguments, as Main does.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return execute(t, Command(version), args...)
}

func execute(t *testing.T, cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

// outside has the test run where there is no cluster around it.
func outside(t *testing.T) {
	t.Helper()
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
}

func TestMistakes(t *testing.T) {
	folder := t.TempDir()
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want []string // in the error
	}{
		{"no node name", nil, []string{"agent", "--manifests", folder}, []string{"--node-name"}},
		{"no source", nil, []string{"agent", "--node-name", "n"}, []string{"--kubeconfig", "--manifests"}},
		{"no source, node name from the environment", map[string]string{"PODFENCE_NODE_NAME": "n"}, []string{"agent"}, []string{"--kubeconfig", "--manifests"}},
		{"two sources", nil, []string{"agent", "--node-name", "n", "--manifests", folder, "--kubeconfig", "k"}, []string{"--manifests", "--kubeconfig", "give one"}},
		{"no such kubeconfig", nil, []string{"agent", "--node-name", "n", "--kubeconfig", filepath.Join(folder, "k")}, []string{"--kubeconfig", "no such file"}},
		{"bad --deny", nil, []string{"agent", "--deny", "refuse"}, []string{"--deny", `"refuse"`, "drop", "reject"}},
		{"bad --deny from the environment", map[string]string{"PODFENCE_DENY": "refuse"}, []string{"render", "-f", folder, "--node", "n"}, []string{"--deny", `"refuse"`}},
		{"bad --pod-to-node", nil, []string{"agent", "--pod-to-node", "deny"}, []string{"--pod-to-node", "police", "allow"}},
		{"small --namespace-budget", nil, []string{"agent", "--node-name", "n", "--namespace-budget", "0"}, []string{"--namespace-budget", "1000"}},
		{"no --observe-flows", nil, []string{"agent", "--node-name", "n", "--observe-flows", "0"}, []string{"--observe-flows", "from 1 to 1048576"}},
		{"many --observe-flows", nil, []string{"agent", "--node-name", "n", "--observe-flows", "1048577"}, []string{"--observe-flows", "1048577"}},
		{"relative --drop-log", nil, []string{"agent", "--node-name", "n", "--drop-log", "stderr"}, []string{"--drop-log", `"stderr"`, "stdout", "absolute"}},
		{"--drop-log that is a folder", nil, []string{"agent", "--node-name", "n", "--drop-log", folder}, []string{"--drop-log", folder, "no file"}},
		{"--drop-log without a size", nil, []string{"agent", "--node-name", "n", "--drop-log", "/drops", "--drop-log-max-size-mb", "0"}, []string{"--drop-log-max-size-mb", "from 1"}},
		{"--drop-log of all files", nil, []string{"agent", "--node-name", "n", "--drop-log", "/drops", "--drop-log-max-files", "0"}, []string{"--drop-log-max-files", "from 1"}},
		{"no --server", nil, []string{"connectivity", "check"}, []string{"--server", "DNS name"}},
		{"bad --own-addresses", nil, []string{"connectivity", "check", "--server", "s", "--own-addresses", "10.0.0.1,web-0"}, []string{"--own-addresses", "web-0"}},
		{"no such --listen", nil, []string{"connectivity", "serve", "--listen", "198.51.100.7:0"}, []string{"198.51.100.7"}},
		{"bad --revoked-mark", nil, []string{"agent", "--revoked-mark", "0x3"}, []string{"--revoked-mark", `"0x3"`, "one bit"}},
		{"--pprof-address of the network", nil, []string{"agent", "--node-name", "n", "--pprof-address", "10.0.0.1:9480"}, []string{"--pprof-address", "10.0.0.1", "loopback"}},
		{"--query-address of the network", nil, []string{"agent", "--node-name", "n", "--query-address", "10.0.0.1:9477"}, []string{"--query-address", "10.0.0.1", "loopback"}},
		{"--query-address of all", nil, []string{"agent", "--node-name", "n", "--query-address", ":9477"}, []string{"--query-address", "loopback"}},
		{"--hubble-address of all without TLS", nil, []string{"agent", "--node-name", "n", "--hubble-address", ":4244"}, []string{"--hubble-address", "--hubble-tls-client-ca-file", "loopback"}},
		{"--hubble-address of the network without TLS", nil, []string{"agent", "--node-name", "n", "--hubble-address", "10.0.0.1:4244"}, []string{"--hubble-address", "10.0.0.1", "loopback"}},
		{"--hubble-address with half of TLS", nil, []string{"agent", "--node-name", "n", "--hubble-address", ":4244", "--hubble-tls-cert-file", "c", "--hubble-tls-key-file", "k"}, []string{"--hubble-tls-client-ca-file", "three files"}},
		{"--hubble-address without a port", nil, []string{"agent", "--node-name", "n", "--hubble-address", "127.0.0.1"}, []string{"--hubble-address", "port"}},
		{"--observe-flows of none", nil, []string{"agent", "--node-name", "n", "--observe-flows", "0"}, []string{"--observe-flows", "from 1 to"}},
		{"--pprof-address of all", nil, []string{"agent", "--node-name", "n", "--pprof-address", ":9480"}, []string{"--pprof-address", "loopback"}},
		{"--pprof-address without a port", nil, []string{"agent", "--node-name", "n", "--pprof-address", "127.0.0.1"}, []string{"--pprof-address", "loopback"}},
		{"--pprof-address by a name", nil, []string{"agent", "--node-name", "n", "--pprof-address", "localhost:9480"}, []string{"--pprof-address", "loopback"}},
		{"--revoked-mark below 0", nil, []string{"agent", "--revoked-mark", "-1"}, []string{"--revoked-mark", `"-1"`}},
		{"--revoked-mark of 33 bits", nil, []string{"agent", "--revoked-mark", "0x100000000"}, []string{"--revoked-mark", "32"}},
		{"--revoked-mark of words", map[string]string{"PODFENCE_REVOKED_MARK": "one\n"}, []string{"agent"}, []string{"--revoked-mark", `"one\n"`}},
		{"empty node name", map[string]string{"PODFENCE_NODE_NAME": ""}, []string{"agent", "--manifests", folder}, []string{"--node-name"}},
		{"bad --cni", nil, []string{"agent", "--node-name", "n", "--cni", "brigde"}, []string{"--cni", `"brigde"`, "chained"}},
		{"bad --cni from the environment", map[string]string{"PODFENCE_CNI": "\x1b[31m"}, []string{"agent", "--node-name", "n"}, []string{"--cni", `"\x1b[31m"`}},
		{"bad --routing", nil, []string{"agent", "--node-name", "n", "--cni", "bridge", "--routing", "bgp"}, []string{"--routing", `"bgp"`, "vxlan"}},
		{"bad --cni of render", nil, []string{"render", "-f", folder, "--node", "n", "--cni", "brigde"}, []string{"--cni", `"brigde"`, "chained"}},
		{"bad --source-check", nil, []string{"agent", "--node-name", "n", "--source-check", "strict"}, []string{"--source-check", `"strict"`, "auto"}},
		{"bad --routing of render", nil, []string{"render", "-f", folder, "--node", "n", "--cni", "bridge", "--routing", "bgp"}, []string{"--routing", `"bgp"`, "vxlan"}},
		{"relative --cni-socket", nil, []string{"agent", "--node-name", "n", "--cni", "chained", "--cni-socket", "agent.sock"}, []string{"--cni-socket", "absolute"}},
		{"empty --cni-state", map[string]string{"PODFENCE_CNI_STATE": ""}, []string{"agent", "--node-name", "n", "--cni", "bridge"}, []string{"--cni-state", "absolute"}},
		{"long --cni-socket", nil, []string{"agent", "--node-name", "n", "--cni", "bridge", "--cni-socket", "/" + strings.Repeat("s", 107)}, []string{"--cni-socket", "108", "107"}},
		{"--cni-conf-name elsewhere", nil, []string{"agent", "--node-name", "n", "--cni", "bridge", "--cni-conf-name", "../00-podfence.conflist"}, []string{"--cni-conf-name", "file's name"}},
		{"--cni-conf-name that no runtime reads", nil, []string{"agent", "--node-name", "n", "--cni", "bridge", "--cni-conf-name", "00-podfence"}, []string{"--cni-conf-name", ".conflist"}},
		{"hidden --cni-conf-name", nil, []string{"agent", "--node-name", "n", "--cni", "bridge", "--cni-conf-name", ".conflist"}, []string{"--cni-conf-name", ".conflist"}},
		{"bad --log-level", nil, []string{"agent", "--log-level", "all"}, []string{"--log-level", "debug"}},
		{"bad --log-format", nil, []string{"agent", "--log-format", "xml"}, []string{"--log-format", "json"}},
		{"status writer without a namespace", nil, []string{"status-writer"}, []string{"--leader-elect-namespace"}},
		{"status writer outside of a cluster", map[string]string{"PODFENCE_LEADER_ELECT_NAMESPACE": "n"}, []string{"status-writer"}, []string{"--kubeconfig"}},
		{"no such kubeconfig of a status writer", nil, []string{"status-writer", "--leader-elect-namespace", "n", "--kubeconfig", filepath.Join(folder, "k")}, []string{"--kubeconfig", "no such file"}},
		{"bad --log-format of a status writer", nil, []string{"status-writer", "--log-format", "xml"}, []string{"--log-format", "json"}},
		{"render without a node", nil, []string{"render", "-f", folder}, []string{"--node"}},
		{"render of nothing", nil, []string{"render", "-f", filepath.Join(folder, "none"), "--node", "n"}, []string{"none", "no such file"}},
		{"an argument too many", nil, []string{"agent", "n"}, []string{`"n"`}},
		{"no such command", nil, []string{"agnet"}, []string{`"agnet"`}},
		{"no such flag", nil, []string{"agent", "--node", "n"}, []string{"--node"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			outside(t)
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			stdout, _, err := run(t, c.args...)
			if err == nil {
				t.Fatalf("no error; stdout: %s", stdout)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if stdout != "" {
				t.Errorf("stdout: %s", stdout)
			}
		})
	}
}

func TestHelpNamesAllCommandsAndFlags(t *testing.T) {
	help, _, err := run(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agent", "connectivity", "render", "status-writer", "uninstall", "version"} {
		if !strings.Contains(help, "\n  "+name+" ") {
			t.Errorf("the help does not list %s:\n%s", name, help)
		}
	}
	for command, flags := range map[string][]string{
		"agent":         {"node-name", "kubeconfig", "manifests", "deny", "pod-to-node", "metrics-address", "health-address", "pprof-address", "query-address", "hubble-address", "hubble-tls-cert-file", "hubble-tls-key-file", "hubble-tls-client-ca-file", "observe-flows", "drop-log", "drop-log-max-size-mb", "drop-log-max-files", "nflog-group", "max-connections-per-pod", "revoked-mark", "log-level", "log-format"},
		"status-writer": {"kubeconfig", "leader-elect-namespace", "metrics-bind-address", "health-probe-bind-address", "log-level", "log-format"},
	} {
		help, _, err := run(t, command, "--help")
		if err != nil {
			t.Fatal(err)
		}
		for _, flag := range flags {
			if !strings.Contains(help, " --"+flag+" ") {
				t.Errorf("the help of %s does not list --%s:\n%s", command, flag, help)
			}
		}
	}
}
