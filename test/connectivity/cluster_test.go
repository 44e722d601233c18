package connectivity_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/fence"
	"github.com/podfence/podfence/test/lab"
)

// soon is how long anything may take that is to happen at once, fifty times over
// and on a slow machine. Nothing waits it out that goes well.
const soon = time.Minute

// uplinkMTU is that of the nodes' links.
const uplinkMTU = 1500

// cluster is nodes with agents that share a folder of manifests.
type cluster struct {
	t       testing.TB
	lab     *lab.Lab
	nodes   []*lab.Node
	fences  []*fence.Fence
	options []fence.Options
	folder  string

	mu   sync.Mutex
	pods []*pod
}

// pod is a pod of the manifests, and its sandbox.
type pod struct {
	*lab.Host
	key  policy.Key
	app  string
	on   int
	said bool // the manifests show its addresses
}

func (p *pod) uid() string { return "uid-" + p.key.Name }

// settings are what a cluster differs in.
type settings struct {
	nodes int
	mode  node.Mode
	// tiny ranges have five addresses for pods each.
	tiny bool
	// anySource: sources of pods may come by any link.
	anySource bool
	// more is YAML: policies.
	more string
}

// newCluster starts agents on nodes that are all on links of each other, and
// waits until pods can be connected.
func newCluster(t testing.TB, s settings) *cluster {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("skipped: packets are counted, and Services played, by nft: %v", err)
	}
	c := &cluster{t: t, folder: t.TempDir()}
	c.must(build())
	var err error
	c.lab, err = lab.New(lab.Options{Settle: 80 * time.Millisecond})
	c.must(err)
	t.Cleanup(func() { c.must(c.lab.Close()) })
	for i := range s.nodes {
		n, err := c.lab.AddNode(fmt.Sprintf("node-%d", i+1), nodeAddrs(i)...)
		c.must(err)
		c.must(n.Do(func() error { return setMTU("lo") }))
		for _, other := range c.nodes {
			c.must(c.lab.Connect(other, n))
		}
		c.nodes = append(c.nodes, n)
	}
	c.must(os.Mkdir(c.path("manifests"), 0o755))
	c.write("cluster.yaml", clusterYAML(s)+s.more)
	c.write("pods.yaml", "")
	for _, n := range c.nodes {
		o := fence.Options{Manifests: c.path("manifests"), Dir: c.path(n.Name), Plugin: cniBinary(), Mode: s.mode, AnySource: s.anySource, Log: logr.Discard()}
		c.options, c.fences = append(c.options, o), append(c.fences, nil)
	}
	t.Cleanup(func() {
		for i := range c.fences {
			c.stop(i)
		}
	})
	for i := range c.nodes {
		c.start(i)
	}
	for i := range c.nodes {
		c.eventually("a CNI configuration", func() error { _, err := c.fences[i].Conflist(); return err })
	}
	return c
}

// setMTU gives a link the MTU of the nodes' links. Those of a lab have their
// InternalIPs on the loopback link, whose own is larger than any other.
func setMTU(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, uplinkMTU)
}

func (c *cluster) start(i int) {
	c.t.Helper()
	var err error
	c.fences[i], err = fence.Start(c.nodes[i], c.options[i])
	c.must(err)
}

func (c *cluster) stop(i int) {
	c.t.Helper()
	if c.fences[i] != nil {
		c.must(c.fences[i].Stop())
		c.fences[i] = nil
	}
}

func (c *cluster) path(name string) string { return filepath.Join(c.folder, name) }

// write replaces a manifest whole: the agents read it at any time.
func (c *cluster) write(name, text string) {
	c.t.Helper()
	c.must(os.WriteFile(c.path("new"), []byte(text), 0o600))
	c.must(os.Rename(c.path("new"), filepath.Join(c.path("manifests"), name)))
}

func (c *cluster) must(err error) {
	c.t.Helper()
	check.NoError(c.t, err)
}

// eventually waits until something holds.
func (c *cluster) eventually(what string, holds func() error) {
	c.t.Helper()
	check.Eventually(c.t, soon, what, holds)
}

func nodeAddrs(i int) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1::%d", i+1))}
}

// vacant is an address of a node's range that no pod gets.
func vacant(i int) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 250}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::fafa", i+1))}
}

// gateways are the addresses of the first node's bridge.
func gateways() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")}
}

func clusterYAML(s settings) string {
	bits4, bits6 := 24, 64
	if s.tiny {
		bits4, bits6 = 29, 125
	}
	var b strings.Builder
	for i := range s.nodes {
		addrs := nodeAddrs(i)
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Node
metadata: {name: node-%[1]d}
spec: {podCIDRs: [10.244.%[1]d.0/%[4]d, "fd00:10:244:%[1]d::/%[5]d"]}
status: {addresses: [{type: InternalIP, address: %[2]s}, {type: InternalIP, address: "%[3]s"}]}
`, i+1, addrs[0], addrs[1], bits4, bits6)
	}
	for _, name := range []string{"shop", "hall", "vault"} {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %[1]s, labels: {name: %[1]s}}\n", name)
	}
	return b.String()
}

// add declares pods of a namespace, all on one node, and makes their
// sandboxes. The manifests do not show their addresses, which nobody knows yet.
func (c *cluster) add(namespace string, on int, names ...string) []*pod {
	c.t.Helper()
	var added []*pod
	for _, name := range names {
		h, err := c.nodes[on].AddSandbox("c-" + name)
		c.must(err)
		app, _, _ := strings.Cut(name, "-")
		added = append(added, &pod{Host: h, key: policy.Key{Namespace: namespace, Name: name}, app: app, on: on})
	}
	c.mu.Lock()
	c.pods = append(c.pods, added...)
	c.mu.Unlock()
	c.declare()
	return added
}

// declare writes the pods to the manifests.
func (c *cluster) declare() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, p := range c.pods {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata: {namespace: %s, name: %s, uid: %s, labels: {app: %s}}
spec: {nodeName: node-%d, containers: [{name: main, image: main}]}
`, p.key.Namespace, p.key.Name, p.uid(), p.app, p.on+1)
		if !p.said {
			b.WriteString("status: {phase: Pending}\n")
			continue
		}
		fmt.Fprintf(&b, "status: {phase: Running, podIP: %q, podIPs: [", p.IPs[0])
		for _, ip := range p.IPs {
			fmt.Fprintf(&b, "{ip: %q},", ip)
		}
		b.WriteString("]}\n")
	}
	c.write("pods.yaml", b.String())
}

// say has the manifests show the pods' addresses, as kubelet does.
func (c *cluster) say(pods ...*pod) {
	c.t.Helper()
	for _, p := range pods {
		p.said = true
	}
	c.declare()
}

// connect has the plugin add a pod.
func (c *cluster) connect(p *pod) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	_, err := c.fences[p.on].Add(ctx, p.Host, p.key, p.uid())
	return err
}

// disconnect has the plugin remove it.
func (c *cluster) disconnect(f *fence.Fence, p *pod) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	return f.Del(ctx, p.Host, p.key, p.uid())
}

// pod makes pods and connects them.
func (c *cluster) pod(namespace string, on int, names ...string) []*pod {
	c.t.Helper()
	pods := c.add(namespace, on, names...)
	for _, p := range pods {
		c.must(c.connect(p))
	}
	return pods
}

func (s settings) String() string { return fmt.Sprintf("%d nodes, %s", s.nodes, s.mode) }
