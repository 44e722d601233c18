package agent_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/commands"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// newPolicies cut 20 of the connections from clients c0 to c9 to servers s0 to s9: to s0 from c5 to c9, to s1 from
// all, from c9 to s7 to s9, and from c8 to s8 and s9. That from c9 to s1 is cut on both sides. Before, the policy open
// had isolated the servers and let everybody in.
const newPolicies = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: s0, namespace: data}
spec: {podSelector: {matchLabels: {app: s0}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [c0, c1, c2, c3, c4]}]}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: s1, namespace: data}
spec: {podSelector: {matchLabels: {app: s1}}, ingress: []}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: c9, namespace: shop}
spec: {podSelector: {matchLabels: {app: c9}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: data}}, podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [s1, s7, s8, s9]}]}}]}]}
---
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: keep-out}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: c8}}}}
  egress: [{name: archives, action: Deny, to: [{pods: {namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [s8, s9]}]}}}]}]
`

// connectedPods are a hundred connections that are open, one from each of ten clients to each of ten servers, on a node
// with a real agent.
type connectedPods struct {
	folder, address  string
	clients, servers map[string]*lab.Host
	open             map[string]net.Conn // by "cI -> sJ"
}

func connect(t *testing.T) *connectedPods {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l := check.Value(lab.New(lab.Options{}))(t)
	t.Cleanup(func() { check.NoError(t, l.Close()) })
	node := check.Value(l.AddNode("node", netip.MustParseAddr("192.0.2.1")))(t)
	check.NoError(t, node.SetSysctl("net/netfilter/nf_conntrack_acct", "1"))
	p := &connectedPods{clients: map[string]*lab.Host{}, servers: map[string]*lab.Host{}, open: map[string]net.Conn{}}
	var objects strings.Builder
	objects.WriteString(`{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: data, labels: {kubernetes.io/metadata.name: data}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: open, namespace: data}, spec: {podSelector: {}, ingress: [{}]}}
`)
	for i := range 10 {
		for namespace, of := range map[string]struct {
			kind  string
			hosts map[string]*lab.Host
			net   int
		}{"shop": {"c", p.clients, 1}, "data": {"s", p.servers, 2}} {
			app, ip := fmt.Sprintf("%s%d", of.kind, i), fmt.Sprintf("10.0.%d.%d", of.net, i+2)
			of.hosts[app] = check.Value(node.AddPod(app, lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr(ip)}}))(t)
			fmt.Fprintf(&objects, `---
{apiVersion: v1, kind: Pod, metadata: {name: %[1]s-7d9f-abcde, namespace: %[2]s, labels: {app: %[1]s, pod-template-hash: 7d9f}}, spec: {nodeName: node, containers: [{name: c, image: i}]}, status: {phase: Running, podIP: %[3]s, podIPs: [{ip: %[3]s}]}}
`, app, namespace, ip)
		}
	}
	for _, server := range p.servers {
		check.Value(server.Serve(policy.TCP, 80))(t)
		check.Value(server.Serve(policy.TCP, 81))(t)
	}
	listener := check.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	p.address = listener.Addr().String()
	check.NoError(t, listener.Close())
	fence(t, node, objects.String(), func(o *agent.Options) { o.QueryAddress, p.folder = p.address, o.Manifests })
	for from, client := range p.clients {
		for to, server := range p.servers {
			conn := check.Value(client.Dial(t.Context(), policy.TCP, netip.AddrPortFrom(server.IPs[0], 80)))(t)
			t.Cleanup(func() { conn.Close() })
			check.NoError(t, lab.Echo(conn, []byte("hello"), 5*time.Second))
			p.open[from+" -> "+to] = conn
		}
	}
	return p
}

// live asks kubectl podfence what would be cut.
func (p *connectedPods) live(t *testing.T, policies string, args ...string) (code int, d explain.LiveDiff) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "new.yaml")
	check.NoError(t, os.WriteFile(file, []byte(policies), 0o644))
	var out, errOut bytes.Buffer
	code = commands.Main(t.Context(), "test", genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut},
		append([]string{"diff", "--live", "--agent", p.address, "--against", p.folder, "-f", file, "-o", "json"}, args...))
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatalf("%v: exit code %d: %v: %s%s", args, code, err, &out, &errOut)
	}
	return code, d
}

// broken are the open connections over which nothing comes through, in order.
func (p *connectedPods) broken() (names []string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, conn := range p.open {
		all.Go(func() {
			if err := lab.Echo(conn, []byte("still there"), time.Second); err != nil {
				mu.Lock()
				defer mu.Unlock()
				names = append(names, name)
			}
		})
	}
	all.Wait()
	slices.Sort(names)
	return names
}

// pairs are the pairs of workloads that would be cut at a port, in order, each once.
func pairs(d explain.LiveDiff, port uint16) (names []string) {
	for _, c := range d.Cuts {
		if c.Port == port {
			names = append(names, fmt.Sprintf("%s -> %s", c.From.Name, c.To.Name))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// withRules are the new policies with rules that would have to be added.
func withRules(t *testing.T, rules []explain.LiveRule) string {
	t.Helper()
	var all []string
	for _, text := range strings.Split(newPolicies, "---\n") {
		var object map[string]any
		check.NoError(t, yaml.Unmarshal([]byte(text), &object))
		for _, rule := range rules {
			meta, spec := object["metadata"].(map[string]any), object["spec"].(map[string]any)
			if object["kind"] != rule.Policy.Kind || meta["name"] != rule.Policy.Name {
				continue
			}
			var added []any
			check.NoError(t, yaml.Unmarshal([]byte(rule.YAML), &added))
			list := strings.TrimPrefix(rule.Field, "spec.")
			has, _ := spec[list].([]any)
			at := len(has)
			if rule.Before != nil {
				at = *rule.Before
			}
			spec[list] = slices.Insert(has, at, added...)
		}
		all = append(all, string(check.Value(yaml.Marshal(object))(t)))
	}
	return strings.Join(all, "---\n")
}

// TestLiveDiff: of a hundred open connections between as many pairs of workloads, 20 of which new policies would cut,
// exactly those are named, before anything has changed; with the rules that are proposed for them, none would be; and once the policies are applied, exactly those are cut.
// Connections that begin while it is looked are judged as well, those that have ended by then included.
func TestLiveDiff(t *testing.T) {
	p := connect(t)
	want := []string{"c8 -> s8", "c8 -> s9", "c9 -> s7", "c9 -> s8", "c9 -> s9"}
	for i := range 10 {
		want = append(want, fmt.Sprintf("c%d -> s1", i))
		if i >= 5 {
			want = append(want, fmt.Sprintf("c%d -> s0", i))
		}
	}
	slices.Sort(want)
	began := time.Now()
	code, d := p.live(t, newPolicies)
	t.Logf("asked and answered in %s", time.Since(began))
	if got := pairs(d, 80); code != 1 || d.Pairs != 20 || !slices.Equal(got, want) {
		t.Fatalf("exit code %d, %d pairs, and not 1, and 20 pairs:\n%v\ninstead of\n%v", code, d.Pairs, got, want)
	}
	if d.Open != 100 || len(d.Cuts) != 21 || len(d.Nodes) != 1 || !d.Nodes[0].Answered || d.Nodes[0].Node != "node" {
		t.Errorf("%d connections were open, and %d cuts: %+v", d.Open, len(d.Cuts), d.Nodes)
	}
	by := map[string]string{}
	for _, c := range d.Cuts {
		by[c.From.String()+" "+c.Direction+" "+c.To.String()] = c.By
		if c.Flows != 1 || c.CountedFlows != 1 || c.Bytes < 300 || time.Since(c.LastSeen) > time.Minute || c.Protocol != "TCP" {
			t.Errorf("%+v", c)
		}
	}
	for what, text := range map[string]string{
		"deploy/shop/c5 ingress deploy/data/s0": "isolated by NetworkPolicy data/s0",
		"deploy/shop/c9 ingress deploy/data/s1": "isolated by NetworkPolicy data/s1",
		"deploy/shop/c9 egress deploy/data/s1":  "isolated by NetworkPolicy shop/c9",
		"deploy/shop/c8 egress deploy/data/s8":  `ClusterNetworkPolicy keep-out egress[0] "archives"`,
	} {
		if by[what] != text {
			t.Errorf("%s: cut by %q, want %q", what, by[what], text)
		}
	}
	if broken := p.broken(); len(broken) > 0 {
		t.Fatalf("to ask has cut %v", broken)
	}

	if code, d := p.live(t, withRules(t, d.Rules)); code != 0 || len(d.Cuts) > 0 {
		t.Errorf("with the rules that would have to be added: exit code %d, and %d cuts, such as %+v", code, len(d.Cuts), d.Cuts[0])
	}

	// What begins meanwhile.
	type answer struct {
		code int
		d    explain.LiveDiff
	}
	followed := make(chan answer, 1)
	go func() {
		code, d := p.live(t, newPolicies, "--for", "7s")
		followed <- answer{code, d}
	}()
	time.Sleep(1500 * time.Millisecond)
	for _, to := range []string{"s0", "s2"} { // which is over long before it is looked again
		check.NoError(t, p.clients["c7"].Exchange(policy.TCP, netip.AddrPortFrom(p.servers[to].IPs[0], 81), 5*time.Second))
	}
	if a := <-followed; a.code != 1 || !slices.Equal(pairs(a.d, 81), []string{"c7 -> s0"}) || !slices.Equal(pairs(a.d, 80), want) || a.d.Pairs != 20 {
		t.Errorf("with those that have begun: exit code %d: %v, and at port 80 %v", a.code, pairs(a.d, 81), pairs(a.d, 80))
	}

	// Now for real.
	file := filepath.Join(p.folder, "cluster.yaml")
	objects := strings.Replace(string(check.Value(os.ReadFile(file))(t)), "name: open, namespace: data}, spec: {podSelector: {}", "name: open, namespace: data}, spec: {podSelector: {matchLabels: {app: nobody}}", 1)
	check.NoError(t, os.WriteFile(file, []byte(objects+"---\n"+newPolicies), 0o644))
	check.Eventually(t, 15*time.Second, "exactly those connections to be cut", func() error {
		if broken := p.broken(); !slices.Equal(broken, want) {
			return fmt.Errorf("%d are cut: %v", len(broken), broken)
		}
		return nil
	})
	if code, d := p.live(t, newPolicies); code != 0 || len(d.Cuts) > 0 || d.Open != 80 {
		t.Errorf("once they are applied: exit code %d, %d cuts, %d open", code, len(d.Cuts), d.Open)
	}
}
