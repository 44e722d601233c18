// Package charts holds the Helm chart. Here: that it renders what the overlays
// in config do, and that each of its values does what it says, and no more.
package charts

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/inputs"
)

const (
	release   = "podfence"
	namespace = "podfence-system"
)

func TestChartEqualsOverlays(t *testing.T) {
	for _, c := range []struct {
		overlay, mode string
	}{
		{"default", "bridge"},
		{"chained", "chained"},
		{"policy-only", "none"},
	} {
		for _, prometheus := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, prometheus %v", c.overlay, prometheus), func(t *testing.T) {
				got := render(t, `namespace.create=true`, `cni.mode="`+c.mode+`"`, fmt.Sprintf("metrics.prometheus.enabled=%v", prometheus),
					fmt.Sprintf("prometheusRule.enabled=%v", prometheus), fmt.Sprintf("dashboard.enabled=%v", prometheus))
				compare(t, got, overlay(t, c.overlay, prometheus))
			})
		}
	}
	t.Run("default, no value set", func(t *testing.T) {
		want := overlay(t, "default", false)
		if _, there := want["Namespace/"+namespace]; !there {
			t.Fatal("config/default has no Namespace")
		}
		delete(want, "Namespace/"+namespace)
		compare(t, render(t), want)
	})
}

// announcements are what only agents need that announce addresses.
var announcements = []string{
	"CustomResourceDefinition/podaddresses.podfence.io",
	"ValidatingAdmissionPolicy/podfence-podaddresses",
	"ValidatingAdmissionPolicyBinding/podfence-podaddresses",
}

// TestAnnouncements: where nobody announces addresses, there is nothing of what that takes, and
// all else is the same.
func TestAnnouncements(t *testing.T) {
	without := func(t *testing.T, got map[string]any) {
		t.Helper()
		for key, object := range got {
			if text := fmt.Sprint(object); strings.Contains(key, "podaddresses") || strings.Contains(text, "podaddresses") {
				t.Errorf("%s is about podaddresses: %s", key, text)
			}
		}
	}
	t.Run("overlays", func(t *testing.T) {
		for _, name := range []string{"default", "chained"} {
			got := overlay(t, name, false)
			for _, key := range announcements {
				if got[key] == nil {
					t.Errorf("config/%s has no %s", name, key)
				}
			}
			if binding := flat(t, got)[announcements[2]+".spec.policyName"]; binding != `"podfence-podaddresses"` {
				t.Errorf("config/%s binds the policy %s", name, binding)
			}
		}
		without(t, overlay(t, "policy-only", false))
	})
	off := func(t *testing.T, mode string, args ...string) {
		t.Helper()
		args = append([]string{"template", release, "podfence", "-n", namespace, "--skip-tests", "--set-json", `cni.mode="` + mode + `"`}, args...)
		out, err := helm(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		got, want := parse(t, out), render(t, `cni.mode="`+mode+`"`)
		without(t, got)
		for _, key := range announcements {
			delete(want, key)
		}
		role := want["ClusterRole/podfence-agent"].(map[string]any)
		rules := role["rules"].([]any)
		role["rules"] = slices.DeleteFunc(rules, func(rule any) bool { return strings.Contains(fmt.Sprint(rule), "podaddresses") })
		if len(role["rules"].([]any)) != len(rules)-1 {
			t.Errorf("with announcements, the rules are %v", rules)
		}
		delete(got, "DaemonSet/podfence-agent") // TestValues has its arguments
		delete(want, "DaemonSet/podfence-agent")
		compare(t, got, want)
	}
	for _, mode := range []string{"bridge", "chained"} {
		t.Run(mode+", off", func(t *testing.T) { off(t, mode, "--set-json", `cni.peersFirst="off"`) })
		t.Run(mode+", on an API server that has no such policies", func(t *testing.T) { off(t, mode, "--kube-version", "1.29.9") })
	}
	t.Run("required of such a one", func(t *testing.T) {
		args := []string{"template", release, "podfence", "--set-json", `cni.peersFirst="require"`, "--kube-version"}
		if out, err := helm(t, append(args, "1.29.9")...); err == nil || !strings.Contains(err.Error(), "must be 1.30 or newer") {
			t.Errorf("%v\n%s", err, out)
		}
		if _, err := helm(t, append(args, "1.30.0")...); err != nil {
			t.Error(err)
		}
	})
}

// TestStatusWriter: where nobody writes the status of ClusterNetworkPolicies, there is nothing of
// what that takes, and all else is the same.
func TestStatusWriter(t *testing.T) {
	for _, prometheus := range []string{`metrics.prometheus.enabled=false`, `metrics.prometheus.enabled=true`} {
		got, want := render(t, `clusterNetworkPolicies.status.enabled=false`, prometheus), render(t, prometheus)
		kinds := 0
		for key := range want {
			if strings.HasSuffix(key, "/podfence-status-writer") {
				delete(want, key)
				kinds++
			}
		}
		if kinds < 6 {
			t.Errorf("with %s, there are %d objects for it", prometheus, kinds)
		}
		compare(t, got, want)
	}
}

const (
	ds    = "DaemonSet/podfence-agent.spec."
	pod   = ds + "template.spec."
	agent = pod + "containers[0]."

	inPool     = "DaemonSet/podfence-agent-big.spec.template.spec." + notUninstalled
	outOfPools = pod + notUninstalled
	// The second of what is asked of a node; the first is that podfence is not removed from there.
	notUninstalled = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1]."

	digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

	writers = "Deployment/podfence-status-writer.spec."
	writer  = writers + "template.spec."
	writes  = writer + "containers[0]."
)

// setting is what a value changes. It is set as PATH=JSON.
type setting struct {
	value string   // as values.yaml has it
	given []string // what else is set, before
	set   []string
	want  []string // the changes to the objects
}

var settings = []setting{
	{"fullnameOverride", nil, []string{`fullnameOverride="podfence"`}, nil}, // and TestNames
	{"namespace.create", nil, []string{`namespace.create=true`}, []string{
		`+ Namespace/podfence-system.apiVersion: "v1"`,
		`+ Namespace/podfence-system.kind: "Namespace"`,
		`+ Namespace/podfence-system.metadata.labels.app.kubernetes.io/name: "podfence"`,
		`+ Namespace/podfence-system.metadata.labels.pod-security.kubernetes.io/audit: "privileged"`,
		`+ Namespace/podfence-system.metadata.labels.pod-security.kubernetes.io/enforce: "privileged"`,
		`+ Namespace/podfence-system.metadata.labels.pod-security.kubernetes.io/warn: "privileged"`,
		`+ Namespace/podfence-system.metadata.name: "podfence-system"`,
	}},
	{"image.repository", nil, []string{`image.repository="localhost:5000/podfence"`}, []string{
		`+ ` + agent + `image: "localhost:5000/podfence:` + released + `"`,
		`+ ` + writes + `image: "localhost:5000/podfence:` + released + `"`,
		`- ` + agent + `image: "ghcr.io/podfence/podfence:` + released + `"`,
		`- ` + writes + `image: "ghcr.io/podfence/podfence:` + released + `"`,
	}},
	{"image.tag", nil, []string{`image.tag="v1"`}, []string{
		`+ ` + agent + `image: "ghcr.io/podfence/podfence:v1"`,
		`+ ` + writes + `image: "ghcr.io/podfence/podfence:v1"`,
		`- ` + agent + `image: "ghcr.io/podfence/podfence:` + released + `"`,
		`- ` + writes + `image: "ghcr.io/podfence/podfence:` + released + `"`,
	}},
	{"image.digest", []string{`image.tag="v1"`}, []string{`image.digest="` + digest + `"`}, []string{
		`+ ` + agent + `image: "ghcr.io/podfence/podfence:v1@` + digest + `"`,
		`+ ` + writes + `image: "ghcr.io/podfence/podfence:v1@` + digest + `"`,
		`- ` + agent + `image: "ghcr.io/podfence/podfence:v1"`,
		`- ` + writes + `image: "ghcr.io/podfence/podfence:v1"`,
	}},
	{"image.pullPolicy", nil, []string{`image.pullPolicy="Always"`}, []string{
		`+ ` + agent + `imagePullPolicy: "Always"`,
		`+ ` + writes + `imagePullPolicy: "Always"`,
		`- ` + agent + `imagePullPolicy: "IfNotPresent"`,
		`- ` + writes + `imagePullPolicy: "IfNotPresent"`,
	}},
	{"imagePullSecrets", nil, []string{`imagePullSecrets=[{"name":"a"},{"name":"b"}]`}, []string{
		`+ ` + pod + `imagePullSecrets[0].name: "a"`,
		`+ ` + pod + `imagePullSecrets[1].name: "b"`,
		`+ ` + writer + `imagePullSecrets[0].name: "a"`,
		`+ ` + writer + `imagePullSecrets[1].name: "b"`,
	}},
	// What the modes are TestChartEqualsOverlays tells, and TestAnnouncements what is not here.
	{"cni.mode", []string{`cni.mode="chained"`, `cni.peersFirst="off"`}, []string{`cni.mode="none"`}, []string{
		`+ ` + agent + `volumeMounts[0].readOnly: true`,
		`- ` + agent + `args[1]: "--proc-sys=/host/proc/sys"`,
		`- ` + agent + `args[2]: "--cni=chained"`,
		`- ` + agent + `args[3]: "--peers-first=off"`,
		`- ` + agent + `volumeMounts[1].mountPath: "/run/podfence"`,
		`- ` + agent + `volumeMounts[1].name: "run"`,
		`- ` + agent + `volumeMounts[2].mountPath: "/opt/cni/bin"`,
		`- ` + agent + `volumeMounts[2].name: "cni-bin"`,
		`- ` + agent + `volumeMounts[3].mountPath: "/host/proc/sys/net"`,
		`- ` + agent + `volumeMounts[3].name: "proc-sys-net"`,
		`- ` + pod + `volumes[1].hostPath.path: "/run/podfence"`,
		`- ` + pod + `volumes[1].hostPath.type: "DirectoryOrCreate"`,
		`- ` + pod + `volumes[1].name: "run"`,
		`- ` + pod + `volumes[2].hostPath.path: "/opt/cni/bin"`,
		`- ` + pod + `volumes[2].hostPath.type: "DirectoryOrCreate"`,
		`- ` + pod + `volumes[2].name: "cni-bin"`,
		`- ` + pod + `volumes[3].hostPath.path: "/proc/sys/net"`,
		`- ` + pod + `volumes[3].hostPath.type: "Directory"`,
		`- ` + pod + `volumes[3].name: "proc-sys-net"`,
	}},
	{"cni.routing", nil, []string{`cni.routing="vxlan"`}, []string{
		`+ ` + agent + `args[3]: "--routing=vxlan"`,
		`- ` + agent + `args[3]: "--routing=auto"`,
	}},
	{"cni.peersFirst", nil, []string{`cni.peersFirst="require"`}, []string{`+ ` + agent + `args[4]: "--peers-first=require"`}},
	{"cni.peersFirst", []string{`cni.mode="none"`}, []string{`cni.peersFirst="require"`}, nil},
	{"cni.peersFirst", nil, []string{`cni.peersFirst=null`}, nil}, // as after an upgrade with --reuse-values
	{"cni.confDir", nil, []string{`cni.confDir="/etc/other/net.d"`}, []string{
		`+ ` + pod + `volumes[0].hostPath.path: "/etc/other/net.d"`,
		`- ` + pod + `volumes[0].hostPath.path: "/etc/cni/net.d"`,
	}},
	{"cni.binDir", nil, []string{`cni.binDir="/usr/libexec/cni"`}, []string{
		`+ ` + pod + `volumes[2].hostPath.path: "/usr/libexec/cni"`,
		`- ` + pod + `volumes[2].hostPath.path: "/opt/cni/bin"`,
	}},
	{"clusterNetworkPolicies.status.enabled", nil, []string{`clusterNetworkPolicies.status.enabled=true`}, nil}, // and TestStatusWriter
	{"clusterNetworkPolicies.status.replicas", nil, []string{`clusterNetworkPolicies.status.replicas=1`}, []string{
		`+ ` + writers + `replicas: 1`,
		`- ` + writers + `replicas: 2`,
	}},
	{"clusterNetworkPolicies.status.priorityClassName", nil, []string{`clusterNetworkPolicies.status.priorityClassName="low"`}, []string{
		`+ ` + writer + `priorityClassName: "low"`,
	}},
	{"clusterNetworkPolicies.status.resources", nil, []string{`clusterNetworkPolicies.status.resources.limits.memory="1Gi"`, `clusterNetworkPolicies.status.resources.requests=null`}, []string{
		`+ ` + writes + `resources.limits.memory: "1Gi"`,
		`- ` + writes + `resources.limits.memory: "256Mi"`,
		`- ` + writes + `resources.requests.cpu: "10m"`,
		`- ` + writes + `resources.requests.memory: "32Mi"`,
	}},
	{"clusterNetworkPolicies.status.tolerations", nil, []string{`clusterNetworkPolicies.status.tolerations=[{"operator":"Exists"}]`}, []string{
		`- ` + writer + `tolerations[0].effect: "NoSchedule"`,
		`- ` + writer + `tolerations[0].key: "node-role.kubernetes.io/control-plane"`,
	}},
	{"clusterNetworkPolicies.status.enabled", nil, []string{`clusterNetworkPolicies=null`}, []string{ // as after an upgrade with --reuse-values
		`- ` + writes + `resources.limits.memory: "256Mi"`,
		`- ` + writes + `resources.requests.cpu: "10m"`,
		`- ` + writes + `resources.requests.memory: "32Mi"`,
		`- ` + writer + `tolerations[0].effect: "NoSchedule"`,
		`- ` + writer + `tolerations[0].key: "node-role.kubernetes.io/control-plane"`,
		`- ` + writer + `tolerations[0].operator: "Exists"`,
	}},
	{"deny", nil, []string{`deny="reject"`}, []string{`+ ` + agent + `args[4]: "--deny=reject"`}},
	{"podToNode", nil, []string{`podToNode="allow"`}, []string{`+ ` + agent + `args[4]: "--pod-to-node=allow"`}},
	{"log.level", nil, []string{`log.level="debug"`}, []string{
		`+ ` + agent + `args[4]: "--log-level=debug"`,
		`+ ` + writes + `args[1]: "--log-level=debug"`,
	}},
	{"log.format", nil, []string{`log.format="json"`}, []string{
		`+ ` + agent + `args[4]: "--log-format=json"`,
		`+ ` + writes + `args[1]: "--log-format=json"`,
	}},
	{"dropLog.to", nil, []string{`dropLog.to="stdout"`}, []string{`+ ` + agent + `args[4]: "--drop-log=stdout"`}},
	{"dropLog.to", nil, []string{`dropLog=null`}, nil}, // as after an upgrade with --reuse-values
	{"dropLog.to", []string{`cni.mode="none"`}, []string{`dropLog.to="/var/log/podfence/drops.log"`}, []string{
		`+ ` + agent + `args[1]: "--drop-log=/var/log/podfence/drops.log"`,
		`+ ` + agent + `args[2]: "--drop-log-max-size-mb=100"`,
		`+ ` + agent + `args[3]: "--drop-log-max-files=3"`,
		`+ ` + agent + `volumeMounts[1].mountPath: "/var/log/podfence"`,
		`+ ` + agent + `volumeMounts[1].name: "drop-log"`,
		`+ ` + pod + `volumes[1].hostPath.path: "/var/log/podfence"`,
		`+ ` + pod + `volumes[1].hostPath.type: "DirectoryOrCreate"`,
		`+ ` + pod + `volumes[1].name: "drop-log"`,
	}},
	{"dropLog.maxSizeMB", []string{`dropLog.to="/d/l"`}, []string{`dropLog.maxSizeMB=7`}, []string{
		`+ ` + agent + `args[5]: "--drop-log-max-size-mb=7"`,
		`- ` + agent + `args[5]: "--drop-log-max-size-mb=100"`,
	}},
	{"dropLog.maxFiles", []string{`dropLog.to="/d/l"`}, []string{`dropLog.maxFiles=9`}, []string{
		`+ ` + agent + `args[6]: "--drop-log-max-files=9"`,
		`- ` + agent + `args[6]: "--drop-log-max-files=3"`,
	}},
	{"hubble.tlsSecret", nil, []string{`hubble=null`}, nil}, // as after an upgrade with --reuse-values
	{"hubble.tlsSecret", nil, []string{`hubble.tlsSecret="hubble-server"`}, []string{ // and TestSetsEqualOverlays
		`+ ` + agent + `env[1].name: "PODFENCE_HUBBLE_ADDRESS"`,
		`+ ` + agent + `env[1].value: ":4244"`,
		`+ ` + agent + `env[2].name: "PODFENCE_HUBBLE_TLS_CERT_FILE"`,
		`+ ` + agent + `env[2].value: "/etc/hubble/tls.crt"`,
		`+ ` + agent + `env[3].name: "PODFENCE_HUBBLE_TLS_KEY_FILE"`,
		`+ ` + agent + `env[3].value: "/etc/hubble/tls.key"`,
		`+ ` + agent + `env[4].name: "PODFENCE_HUBBLE_TLS_CLIENT_CA_FILE"`,
		`+ ` + agent + `env[4].value: "/etc/hubble/ca.crt"`,
		`+ ` + agent + `volumeMounts[4].mountPath: "/etc/hubble"`,
		`+ ` + agent + `volumeMounts[4].name: "hubble-server"`,
		`+ ` + agent + `volumeMounts[4].readOnly: true`,
		`+ ` + pod + `volumes[4].name: "hubble-server"`,
		`+ ` + pod + `volumes[4].secret.defaultMode: 256`,
		`+ ` + pod + `volumes[4].secret.optional: true`,
		`+ ` + pod + `volumes[4].secret.secretName: "hubble-server"`,
	}},
	{"extraArgs", []string{`deny="reject"`}, []string{`extraArgs=["--revoked-mark=0","--metrics-address=0"]`}, []string{
		`+ ` + agent + `args[5]: "--revoked-mark=0"`,
		`+ ` + agent + `args[6]: "--metrics-address=0"`,
	}},
	{"extraEnv", nil, []string{`extraEnv=[{"name":"GOGC","value":"50"},{"name":"POD_IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}]`}, []string{
		`+ ` + agent + `env[1].name: "GOGC"`,
		`+ ` + agent + `env[1].value: "50"`,
		`+ ` + agent + `env[2].name: "POD_IP"`,
		`+ ` + agent + `env[2].valueFrom.fieldRef.fieldPath: "status.podIP"`,
	}},
	{"podLabels", nil, []string{`podLabels={"team":"net"}`}, []string{`+ ` + ds + `template.metadata.labels.team: "net"`}},
	{"podAnnotations", nil, []string{`podAnnotations={"team":"net"}`}, []string{`+ ` + ds + `template.metadata.annotations.team: "net"`}},
	// What is added TestChartEqualsOverlays tells.
	{"metrics.prometheus.enabled", []string{`metrics.prometheus.enabled=true`}, []string{`metrics.prometheus.enabled=false`}, []string{
		`+ ` + agent + `env[0].name: "PODFENCE_NODE_NAME"`,
		`+ ` + agent + `env[0].valueFrom.fieldRef.fieldPath: "spec.nodeName"`,
		`+ ` + writes + `env[0].name: "PODFENCE_LEADER_ELECT_NAMESPACE"`,
		`+ ` + writes + `env[0].valueFrom.fieldRef.fieldPath: "metadata.namespace"`,
		`+ ` + writes + `ports[0].containerPort: 9479`,
		`+ ` + writes + `ports[0].name: "health"`,
		`- ` + agent + `env[0].name: "HOST_IP"`,
		`- ` + agent + `env[0].valueFrom.fieldRef.fieldPath: "status.hostIP"`,
		`- ` + agent + `env[1].name: "PODFENCE_METRICS_ADDRESS"`,
		`- ` + agent + `env[1].value: "$(HOST_IP):9478"`,
		`- ` + agent + `env[2].name: "PODFENCE_NODE_NAME"`,
		`- ` + agent + `env[2].valueFrom.fieldRef.fieldPath: "spec.nodeName"`,
		`- ` + agent + `ports[0].containerPort: 9478`,
		`- ` + agent + `ports[0].name: "metrics"`,
		`- ` + agent + `ports[0].protocol: "TCP"`,
		`- ` + writes + `env[0].name: "PODFENCE_METRICS_BIND_ADDRESS"`,
		`- ` + writes + `env[0].value: ":9478"`,
		`- ` + writes + `env[1].name: "PODFENCE_LEADER_ELECT_NAMESPACE"`,
		`- ` + writes + `env[1].valueFrom.fieldRef.fieldPath: "metadata.namespace"`,
		`- ` + writes + `ports[0].containerPort: 9478`,
		`- ` + writes + `ports[0].name: "metrics"`,
		`- ` + writes + `ports[1].containerPort: 9479`,
		`- ` + writes + `ports[1].name: "health"`,
		`- ` + writes + `ports[1].protocol: "TCP"`,
		`- PodMonitor/podfence-agent.apiVersion: "monitoring.coreos.com/v1"`,
		`- PodMonitor/podfence-agent.kind: "PodMonitor"`,
		`- PodMonitor/podfence-agent.metadata.labels.app.kubernetes.io/name: "podfence"`,
		`- PodMonitor/podfence-agent.metadata.name: "podfence-agent"`,
		`- PodMonitor/podfence-agent.metadata.namespace: "podfence-system"`,
		`- PodMonitor/podfence-agent.spec.podMetricsEndpoints[0].honorLabels: true`,
		`- PodMonitor/podfence-agent.spec.podMetricsEndpoints[0].path: "/metrics"`,
		`- PodMonitor/podfence-agent.spec.podMetricsEndpoints[0].port: "metrics"`,
		`- PodMonitor/podfence-agent.spec.selector.matchLabels.app.kubernetes.io/component: "agent"`,
		`- PodMonitor/podfence-agent.spec.selector.matchLabels.app.kubernetes.io/name: "podfence"`,
		`- PodMonitor/podfence-status-writer.apiVersion: "monitoring.coreos.com/v1"`,
		`- PodMonitor/podfence-status-writer.kind: "PodMonitor"`,
		`- PodMonitor/podfence-status-writer.metadata.labels.app.kubernetes.io/name: "podfence"`,
		`- PodMonitor/podfence-status-writer.metadata.name: "podfence-status-writer"`,
		`- PodMonitor/podfence-status-writer.metadata.namespace: "podfence-system"`,
		`- PodMonitor/podfence-status-writer.spec.podMetricsEndpoints[0].path: "/metrics"`,
		`- PodMonitor/podfence-status-writer.spec.podMetricsEndpoints[0].port: "metrics"`,
		`- PodMonitor/podfence-status-writer.spec.selector.matchLabels.app.kubernetes.io/component: "status-writer"`,
		`- PodMonitor/podfence-status-writer.spec.selector.matchLabels.app.kubernetes.io/name: "podfence"`,
	}},
	{"metrics.prometheus.annotations", nil, []string{`metrics.prometheus.annotations=false`}, nil}, // and TestSetsEqualOverlays
	{"metrics.prometheus.annotations", []string{`metrics.prometheus.enabled=true`}, []string{`metrics.prometheus.annotations=true`}, []string{
		`+ ` + ds + `template.metadata.annotations.prometheus.io/path: "/metrics"`,
		`+ ` + ds + `template.metadata.annotations.prometheus.io/port: "9478"`,
		`+ ` + ds + `template.metadata.annotations.prometheus.io/scrape: "true"`,
		`+ ` + writers + `template.metadata.annotations.prometheus.io/path: "/metrics"`,
		`+ ` + writers + `template.metadata.annotations.prometheus.io/port: "9478"`,
		`+ ` + writers + `template.metadata.annotations.prometheus.io/scrape: "true"`,
	}},
	{"metrics.prometheus.ipv6", []string{`metrics.prometheus.enabled=true`}, []string{`metrics.prometheus.ipv6=true`}, []string{
		`+ ` + agent + `env[1].value: "[$(HOST_IP)]:9478"`,
		`- ` + agent + `env[1].value: "$(HOST_IP):9478"`,
	}},
	{"metrics.prometheus.podMonitorLabels", []string{`metrics.prometheus.enabled=true`}, []string{`metrics.prometheus.podMonitorLabels={"release":"a"}`}, []string{
		`+ PodMonitor/podfence-agent.metadata.labels.release: "a"`,
		`+ PodMonitor/podfence-status-writer.metadata.labels.release: "a"`,
	}},
	// What these add TestChartEqualsOverlays tells.
	{"prometheusRule.enabled", nil, []string{`prometheusRule.enabled=false`}, nil},
	{"prometheusRule.enabled", nil, []string{`prometheusRule=null`}, nil}, // as after an upgrade with --reuse-values
	{"prometheusRule.labels", []string{`prometheusRule.enabled=true`}, []string{`prometheusRule.labels={"release":"a"}`}, []string{
		`+ PrometheusRule/podfence-agent.metadata.labels.release: "a"`,
	}},
	{"dashboard.enabled", nil, []string{`dashboard.enabled=false`}, nil},
	{"dashboard.enabled", nil, []string{`dashboard=null`}, nil}, // as after an upgrade with --reuse-values
	{"dashboard.labels", []string{`dashboard.enabled=true`}, []string{`dashboard.labels={"my_dashboard":"yes","grafana_dashboard":null}`}, []string{
		`+ ConfigMap/podfence-dashboard.metadata.labels.my_dashboard: "yes"`,
		`- ConfigMap/podfence-dashboard.metadata.labels.grafana_dashboard: "1"`,
	}},
	// What these add TestNetworkPolicy tells.
	{"networkPolicy.enabled", nil, []string{`networkPolicy.enabled=false`}, nil},
	{"networkPolicy.enabled", nil, []string{`networkPolicy=null`}, nil}, // as after an upgrade with --reuse-values
	{"networkPolicy.apiServerPorts", []string{`networkPolicy.enabled=true`}, []string{`networkPolicy.apiServerPorts=[16443]`}, []string{
		`+ NetworkPolicy/podfence-allow-api-server.spec.egress[0].ports[0].port: 16443`,
		`- NetworkPolicy/podfence-allow-api-server.spec.egress[0].ports[0].port: 6443`,
		`- NetworkPolicy/podfence-allow-api-server.spec.egress[0].ports[1].port: 443`,
		`- NetworkPolicy/podfence-allow-api-server.spec.egress[0].ports[1].protocol: "TCP"`,
	}},
	{"resources", nil, []string{`resources.limits={"memory":"2Gi"}`, `resources.requests.cpu=1`}, []string{
		`+ ` + agent + `resources.limits.memory: "2Gi"`,
		`+ ` + agent + `resources.requests.cpu: 1`,
		`- ` + agent + `resources.limits.memory: "1Gi"`,
		`- ` + agent + `resources.requests.cpu: "50m"`,
	}},
	{"resources", nil, []string{`resources=null`}, []string{
		`- ` + agent + `resources.limits.memory: "1Gi"`,
		`- ` + agent + `resources.requests.cpu: "50m"`,
		`- ` + agent + `resources.requests.memory: "64Mi"`,
	}},
	{"updateStrategy", nil, []string{`updateStrategy={"type":"OnDelete","rollingUpdate":null}`}, []string{
		`+ ` + ds + `updateStrategy.type: "OnDelete"`,
		`- ` + ds + `updateStrategy.rollingUpdate.maxUnavailable: "10%"`,
		`- ` + ds + `updateStrategy.type: "RollingUpdate"`,
	}},
	{"updateStrategy", nil, []string{`updateStrategy.rollingUpdate.maxUnavailable=1`}, []string{
		`+ ` + ds + `updateStrategy.rollingUpdate.maxUnavailable: 1`,
		`- ` + ds + `updateStrategy.rollingUpdate.maxUnavailable: "10%"`,
	}},
	{"priorityClassName", nil, []string{`priorityClassName=""`}, []string{
		`- ` + pod + `priorityClassName: "system-node-critical"`,
	}},
	{"nodeSelector", nil, []string{`nodeSelector={"zone":"a"}`}, []string{
		`+ ` + pod + `nodeSelector.zone: "a"`,
		`+ ` + writer + `nodeSelector.zone: "a"`,
	}},
	{"nodeSelector", nil, []string{`nodeSelector=null`}, []string{
		`- ` + pod + `nodeSelector.kubernetes.io/os: "linux"`,
		`- ` + writer + `nodeSelector.kubernetes.io/os: "linux"`,
	}},
	{"tolerations", nil, []string{`tolerations=[{"key":"a","operator":"Exists","effect":"NoExecute"}]`}, []string{
		`+ ` + pod + `tolerations[0].effect: "NoExecute"`,
		`+ ` + pod + `tolerations[0].key: "a"`,
	}},
	{"tolerations", nil, []string{`tolerations=[]`}, []string{
		`- ` + pod + `tolerations[0].operator: "Exists"`,
	}},
	{"pools.label", []string{`pools.byName.big={}`}, []string{`pools.label="agentpool"`}, []string{ // and TestPools
		`+ ` + inPool + `key: "agentpool"`,
		`+ ` + outOfPools + `key: "agentpool"`,
		`- ` + inPool + `key: "podfence.io/pool"`,
		`- ` + outOfPools + `key: "podfence.io/pool"`,
	}},
	{"pools.byName", nil, []string{`pools=null`}, nil},    // as after an upgrade with --reuse-values
	{"test.tolerations", nil, []string{`test=null`}, nil}, // TestHelmTest tells what it does
	{"seLinuxOptions", nil, []string{`seLinuxOptions={"type":"spc_t"}`}, []string{
		`+ ` + agent + `securityContext.seLinuxOptions.type: "spc_t"`,
	}},
	{"uninstall", nil, []string{`uninstall=false`}, nil}, // and TestUninstall
}

// TestUninstall: asked for, the chart renders config/uninstall in the release's namespace,
// with the settings of the agent that are the nodes' and the image's; and no more.
func TestUninstall(t *testing.T) {
	const uninstall = "DaemonSet/podfence-uninstall"
	got := render(t, `uninstall=true`)
	want := overlay(t, "uninstall", false)
	if len(want) != 1 || want[uninstall] == nil {
		t.Fatalf("config/uninstall has %v", slices.Collect(maps.Keys(want)))
	}
	metadata := want[uninstall].(map[string]any)["metadata"].(map[string]any)
	if metadata["namespace"] != "kube-system" {
		t.Errorf("config/uninstall is in namespace %v, which may be gone with the rest", metadata["namespace"])
	}
	metadata["namespace"] = namespace
	compare(t, map[string]any{uninstall: got[uninstall]}, want)
	delete(got, uninstall)
	compare(t, got, render(t))

	before := flat(t, render(t, `uninstall=true`))
	for set, value := range map[string]string{
		`image.repository="localhost:5000/podfence"`: "localhost:5000/podfence:" + released,
		`image.tag="v1"`:                                "ghcr.io/podfence/podfence:v1",
		`image.pullPolicy="Always"`:                     "Always",
		`imagePullSecrets=[{"name":"a"}]`:               "a",
		`cni.confDir="/etc/other/net.d"`:                "/etc/other/net.d",
		`cni.binDir="/usr/libexec/cni"`:                 "/usr/libexec/cni",
		`priorityClassName="high"`:                      "high",
		`nodeSelector.zone="a"`:                         "a",
		`tolerations=[{"key":"a","operator":"Exists"}]`: "a",
		`seLinuxOptions={"type":"spc_t"}`:               "spc_t",
	} {
		var now []string
		for path, text := range flat(t, render(t, `uninstall=true`, set)) {
			if strings.HasPrefix(path, uninstall) && before[path] != text {
				now = append(now, text)
			}
		}
		if values := slices.Compact(now); len(values) != 1 || values[0] != strconv.Quote(value) {
			t.Errorf("with %s, these have changed: %v", set, values)
		}
	}
}

func TestValues(t *testing.T) {
	for _, c := range settings {
		t.Run(strings.Join(c.set, " "), func(t *testing.T) {
			before, after := flat(t, render(t, c.given...)), flat(t, render(t, append(slices.Clone(c.given), c.set...)...))
			var got []string
			for path, value := range before {
				if after[path] != value {
					got = append(got, "- "+path+": "+value)
				}
			}
			for path, value := range after {
				if before[path] != value {
					got = append(got, "+ "+path+": "+value)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("the changes are not as wanted (-) but (+):\n%s", diff)
			}
		})
	}
	t.Run("all of values.yaml", func(t *testing.T) {
		for path := range leaves(values(t)) {
			if !slices.ContainsFunc(settings, func(c setting) bool {
				return path == c.value || strings.HasPrefix(path, c.value+".") || strings.HasPrefix(path, c.value+"[")
			}) {
				t.Errorf("no test sets %s", path)
			}
		}
	})
	t.Run("of a chart above", func(t *testing.T) {
		compare(t, render(t, `global={"other":"chart's"}`), render(t))
	})
}

// What the README says of setting flags does so: by kustomize, and by Helm.
func TestReadmeSetsFlags(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, found := strings.Cut(string(readme), "```yaml\n")
	example, _, _ = strings.Cut(example, "```\n")
	if !found || !strings.Contains(example, "podfence/config/default") {
		t.Fatalf("the README has no kustomization but\n%s", example)
	}
	folder := t.TempDir()
	if err := errors.Join(os.CopyFS(filepath.Join(folder, "podfence", "config"), os.DirFS("../config")),
		os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(example), 0o600)); err != nil {
		t.Fatal(err)
	}
	out, err := tool(t, "kustomize", "build", folder)
	if err != nil {
		t.Fatal(err)
	}
	args := flat(t, parse(t, out))
	if args[agent+"args[3]"] != `"--routing=auto"` || args[agent+"args[4]"] != `"--routing=host-gw"` || args[agent+"args[5]"] != `"--deny=reject"` {
		t.Errorf("the arguments are %v", slices.Sorted(maps.Values(args)))
	}

	_, command, found := strings.Cut(string(readme), "--set deny=reject --set '")
	extra, _, _ := strings.Cut(command, "'\n")
	if !found {
		t.Fatal("the README has no example for Helm")
	}
	if out, err = helm(t, "template", release, "podfence", "-n", namespace, "--set", "deny=reject", "--set", extra); err != nil {
		t.Fatal(err)
	}
	args = flat(t, parse(t, out))
	if args[agent+"args[4]"] != `"--deny=reject"` || args[agent+"args[5]"] != `"--revoked-mark=0"` || args[agent+"args[6]"] != `"--metrics-address=0"` {
		t.Errorf("the arguments are %v", slices.Sorted(maps.Values(args)))
	}
}

// Names and namespace come from the release, and nothing else does.
func TestNames(t *testing.T) {
	long := strings.Repeat("a", 53) // the longest that Helm takes
	standard := template(t, release, namespace)
	for _, c := range []struct{ release, namespace, override, want string }{
		{"podfence", "kube-system", "", "podfence-agent"},
		{"podfence", "2026", "", "podfence-agent"}, // no number
		{"net", namespace, "", "net-podfence-agent"},
		{"my-podfence", namespace, "", "my-podfence-agent"},
		{"net", namespace, "fence", "fence-agent"},
		{long, namespace, "", long + "-pod-agent"},
		{"net", namespace, long + "-abc-d", long + "-abc-agent"},
	} {
		t.Run(c.release+" in "+c.namespace+" "+c.override, func(t *testing.T) {
			if len(c.want) > 63 {
				t.Errorf("%s has %d characters", c.want, len(c.want))
			}
			name := strings.TrimSuffix(c.want, "-agent")
			writer := strings.TrimSuffix(name[:min(len(name), 49)], "-") + "-status-writer"
			if len(writer) > 63 {
				t.Errorf("%s has %d characters", writer, len(writer))
			}
			want := strings.NewReplacer("podfence-agent", c.want, "podfence-status-writer", writer, "podfence-podaddresses", strings.TrimSuffix(c.want, "agent")+"podaddresses", namespace, c.namespace).Replace(standard)
			got := parse(t, template(t, c.release, c.namespace, `fullnameOverride="`+c.override+`"`))
			compare(t, got, parse(t, want))
			account, _ := got["ServiceAccount/"+c.want].(map[string]any)
			if diff := cmp.Diff(map[string]any{"name": c.want, "namespace": c.namespace, "labels": map[string]any{"app.kubernetes.io/name": "podfence"}}, account["metadata"]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSchemaRefuses(t *testing.T) {
	refused := func(set, want string) {
		t.Run(set, func(t *testing.T) {
			out, err := helm(t, "template", release, "podfence", "-n", namespace, "--set-json", set)
			if err == nil {
				t.Fatalf("it is taken:\n%s", out)
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not say %q: %v", want, err)
			}
		})
	}
	refused(`iamge={"tag":"v1"}`, "additional properties 'iamge' not allowed")
	refused(`cni.mode="brigde"`, "'/cni/mode': value must be one of 'bridge', 'chained', 'none'")
	refused(`cni.routing="bgp"`, "'/cni/routing': value must be one of 'auto', 'host-gw', 'vxlan'")
	refused(`cni.peersFirst=false`, "'/cni/peersFirst': value must be one of '', 'prefer', 'require', 'off'") // off without quotes
	refused(`cni.mode=null`, "missing property 'mode'")
	refused(`cni.binDir="opt/cni/bin"`, "'/cni/binDir'")
	refused(`deny="refuse"`, "'/deny': value must be one of '', 'drop', 'reject'")
	refused(`podToNode="deny"`, "'/podToNode': value must be one of '', 'police', 'allow'")
	refused(`log.level="all"`, "'/log/level'")
	refused(`log.format="xml"`, "'/log/format'")
	refused(`dropLog.to="stderr"`, "'/dropLog/to'")
	refused(`dropLog.to="/drops.log"`, "'/dropLog/to'") // the node's root would be mounted
	refused(`dropLog.maxFiles=0`, "'/dropLog/maxFiles'")
	refused(`image.tag=1.0`, "'/image/tag': got number, want string")
	refused(`fullnameOverride="Fence"`, "'/fullnameOverride'")
	refused(`extraArgs=["deny=reject"]`, "'/extraArgs/0'")
	refused(`tolerations=[{"opreator":"Exists"}]`, "additional properties 'opreator' not allowed")
	refused(`seLinuxOptions={"typ":"spc_t"}`, "additional properties 'typ' not allowed")
	refused(`updateStrategy.rollingUpdate.maxSurge=1`, "additional properties 'maxSurge' not allowed")
	// No level has room for a typing error.
	for path, value := range nodes("", values(t)) {
		if _, is := value.(map[string]any); is {
			refused(strings.TrimPrefix(path+".typo=true", "."), "typo")
		}
	}
}

func TestLint(t *testing.T) {
	for _, mode := range []string{"bridge", "chained", "none"} {
		if out, err := helm(t, "lint", "--strict", "podfence", "--set-json", `cni.mode="`+mode+`"`); err != nil {
			t.Errorf("%s: %v\n%s", mode, err, out)
		}
	}
}

func TestNotes(t *testing.T) {
	for _, c := range []struct {
		set       []string
		want, not string
	}{
		{nil, "no other network plugin", "conflist"},
		{nil, "rollout status daemonset/podfence-agent", "{{"},
		{nil, "label namespace podfence-system pod-security.kubernetes.io/enforce=privileged", "\n\n\n"},
		{nil, "helm test podfence -n podfence-system", "component=agent"},
		{nil, "kubectl podfence status", "\n\n\n"},
		{nil, "Without policies, all pods may reach each other", "\n\n\n"},
		{nil, "kubectl podfence observe", "\n\n\n"},
		{[]string{`pools.byName.a={}`}, "rollout status daemonset -l app.kubernetes.io/component=agent", "daemonset/podfence-agent"},
		{[]string{`namespace.create=true`}, "--set uninstall=true", "label namespace"},
		{[]string{`uninstall=true`}, "rollout status daemonset/podfence-uninstall", "--set uninstall"},
		{[]string{`cni.mode="chained"`}, `{"type":"podfence","mode":"chained"}`, "\n\n\n"},
		{[]string{`cni.mode="none"`}, "until the API shows it", "\n\n\n"},
	} {
		args := []string{"install", release, "podfence", "-n", namespace, "--create-namespace", "--dry-run=client"}
		for _, set := range c.set {
			args = append(args, "--set-json", set)
		}
		out, err := helm(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		_, notes, found := strings.Cut(out, "NOTES:\n")
		if !found || !strings.Contains(notes, c.want) || strings.Contains(notes, c.not) {
			t.Errorf("with %v, the notes lack %q or have %q:\n%s", c.set, c.want, c.not, notes)
		}
	}
}

// The table in the chart's README has each value, with its default.
func TestReadme(t *testing.T) {
	file, err := os.Open("podfence/README.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) == 5 && strings.Contains(cells[1], "`") {
			rows[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `")
		}
	}
	all := nodes("", values(t))
	for _, c := range settings {
		row, there := rows[c.value]
		want := ""
		switch value := all[c.value].(type) {
		case string, bool:
			want = fmt.Sprint(value)
		default: // a list or an object, which is told in short
			want = row
		}
		if !there || row != want {
			t.Errorf("%s is not in the table with the default %q, but %q", c.value, want, row)
		}
	}
	for value := range rows {
		if _, there := all[value]; !there {
			t.Errorf("the table has %s, which is not in values.yaml", value)
		}
	}
}

// render is the chart's objects, with values as PATH=JSON.
func render(t *testing.T, sets ...string) map[string]any {
	t.Helper()
	return parse(t, template(t, release, namespace, sets...))
}

func template(t *testing.T, release, namespace string, sets ...string) string {
	t.Helper()
	args := []string{"template", release, "podfence", "-n", namespace, "--skip-tests"}
	for _, set := range sets {
		args = append(args, "--set-json", set)
	}
	out, err := helm(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// overlay is the objects of an overlay in config, or of a copy in which the
// commented-out lines for Prometheus are none.
func overlay(t *testing.T, name string, prometheus bool) map[string]any {
	t.Helper()
	config := filepath.Join("..", "config")
	if prometheus {
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(config)); err != nil {
			t.Fatal(err)
		}
		config = copied
		path := filepath.Join(config, name, "kustomization.yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), "\n# - ../prometheus\n") != 1 {
			t.Fatalf("%s has no component ../prometheus to switch on", path)
		}
		text = []byte(strings.NewReplacer("# components:\n", "components:\n", "# - ../prometheus\n", "- ../prometheus\n").Replace(string(text)))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := tool(t, "kustomize", "build", filepath.Join(config, name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, out)
}

// parse reads a stream of objects, by kind and name.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if err := yaml.UnmarshalStrict(document, &object); err != nil {
			t.Fatalf("%v:\n%s", err, document)
		}
		if object == nil {
			continue
		}
		metadata, _ := object["metadata"].(map[string]any)
		key := fmt.Sprintf("%v/%v", object["kind"], metadata["name"])
		if all[key] != nil {
			t.Fatalf("there are two %s:\n%s", key, text)
		}
		all[key] = object
	}
	if len(all) == 0 {
		t.Fatal("there are no objects")
	}
	return all
}

func compare(t *testing.T, got, want map[string]any) {
	t.Helper()
	keys := maps.Clone(got)
	maps.Copy(keys, want)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		switch {
		case got[key] == nil:
			t.Errorf("%s is missing", key)
		case want[key] == nil:
			t.Errorf("%s should not be there", key)
		default:
			if diff := cmp.Diff(want[key], got[key]); diff != "" {
				t.Errorf("%s is not as wanted (-) but (+):\n%s", key, diff)
			}
		}
	}
}

// flat is each scalar of the objects, as JSON, by its path.
func flat(t *testing.T, objects map[string]any) map[string]string {
	t.Helper()
	all := map[string]string{}
	for path, value := range leaves(objects) {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(text)
	}
	return all
}

// leaves are the nodes that have none below.
func leaves(value any) map[string]any {
	all := nodes("", value)
	maps.DeleteFunc(all, func(_ string, value any) bool {
		switch value := value.(type) {
		case map[string]any:
			return len(value) > 0
		case []any:
			return len(value) > 0
		}
		return false
	})
	return all
}

// nodes are a value and all in it, by path.
func nodes(path string, value any) map[string]any {
	all := map[string]any{path: value}
	switch value := value.(type) {
	case map[string]any:
		for key, value := range value {
			maps.Copy(all, nodes(strings.TrimPrefix(path+"."+key, "."), value))
		}
	case []any:
		for i, value := range value {
			maps.Copy(all, nodes(fmt.Sprintf("%s[%d]", path, i), value))
		}
	}
	return all
}

// values are the chart's defaults.
func values(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile("podfence/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := yaml.UnmarshalStrict(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return tool(t, "helm", args...)
}

// tools are the paths of those that have run.
var tools = map[string]string{}

// tool runs one of those that test/tools pins. The go command builds it, once.
func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if tools[name] == "" {
		if err := inputs.Trees("podfence", "../config", "../test/tools"); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("go", "-C", "../test/tools", "tool", "-n", name).Output()
		if err != nil {
			t.Fatalf("building %s: %v", name, explained(err))
		}
		tools[name] = strings.TrimSpace(string(out))
	}
	home := t.TempDir() // no one's plugins, repositories and clusters
	cmd := exec.Command(tools[name], args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+os.DevNull)
	out, err := cmd.Output()
	return string(out), explained(err)
}

// explained adds what a program has said to its error.
func explained(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}
