package connectivity_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
	"github.com/podfence/podfence/test/quantiles"
)

// BenchmarkAdd measures ADD by libcni, in turns in one run: podfence with its
// agent, which commits each pod's rules under a default deny before it answers;
// and containernetworking/plugins' bridge and host-local, of the version that
// go.mod names, with and without masquerading. It reports medians.
func BenchmarkAdd(b *testing.B) {
	const rounds = 50
	plugins := referencePlugins(b)
	for b.Loop() {
		c := newCluster(b, settings{nodes: 2, mode: node.HostGW, more: `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: bench, name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`})
		var names []string
		for i := range rounds {
			names = append(names, fmt.Sprintf("pod-%d", i))
		}
		pods := c.add("bench", 0, names...)
		plain, masquerading := newReference(b, plugins, false, names), newReference(b, plugins, true, names)
		took := map[string][]time.Duration{}
		for i, p := range pods {
			for what, add := range map[string]func() error{
				"podfence":      func() error { return c.connect(p) },
				"bridge":        func() error { return plain.add(names[i]) },
				"bridge-ipMasq": func() error { return masquerading.add(names[i]) },
			} {
				began := time.Now()
				if err := add(); err != nil {
					b.Fatalf("%s: %v", what, err)
				}
				took[what] = append(took[what], time.Since(began))
			}
		}
		for what, all := range took {
			quantiles.Report(b, what, time.Millisecond, all, 50)
		}
	}
}

// referencePlugins builds the plugins that podfence is measured against.
func referencePlugins(b *testing.B) string {
	dir := b.TempDir()
	if err := prebuilt.Reference(dir, "main/bridge", "ipam/host-local"); err != nil {
		b.Skipf("skipped: %v", err)
	}
	return dir
}

// reference is a node whose pods bridge and host-local connect.
type reference struct {
	node *lab.Node
	pods map[string]*lab.Host
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
}

func newReference(b *testing.B, plugins string, masquerade bool, names []string) *reference {
	b.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	n, err := l.AddNode("reference", nodeAddrs(0)...)
	if err != nil {
		b.Fatal(err)
	}
	conf, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "pods", "plugins": []any{map[string]any{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": masquerade,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": b.TempDir(),
			"ranges": []any{[]any{map[string]any{"subnet": "10.244.1.0/24"}}, []any{map[string]any{"subnet": "fd00:10:244:1::/64"}}},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}, map[string]any{"dst": "::/0"}},
		},
	}}})
	if err != nil {
		b.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(conf)
	if err != nil {
		b.Fatal(err)
	}
	r := &reference{node: n, pods: map[string]*lab.Host{}, list: list, cni: libcni.NewCNIConfigWithCacheDir([]string{plugins}, filepath.Join(b.TempDir(), "cache"), nil)}
	for _, name := range names {
		if r.pods[name], err = n.AddSandbox(name); err != nil {
			b.Fatal(err)
		}
	}
	return r
}

func (r *reference) add(name string) error {
	return r.node.Do(func() error {
		_, err := r.cni.AddNetworkList(context.Background(), r.list, &libcni.RuntimeConf{ContainerID: name, NetNS: r.pods[name].NetNSPath(), IfName: "eth0"})
		return err
	})
}
