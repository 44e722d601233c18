//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/prebuilt"
)

// otherPlugin is another network plugin for the whole cluster: ptp and host-local of
// containernetworking, and routes between the nodes, which connect pods and fence none.
type otherPlugin struct {
	nodes map[string]*corev1.Node
	bin   string
}

// otherConflist is its configuration on each node.
const otherConflist = "/etc/cni/net.d/20-other.conflist"

// otherPlugins are its programs. Nodes have a loopback plugin of their distribution's, too.
var otherPlugins = []string{"main/ptp", "main/loopback", "ipam/host-local"}

func newOtherPlugin(t *testing.T) *otherPlugin {
	t.Helper()
	o := &otherPlugin{nodes: map[string]*corev1.Node{}, bin: t.TempDir()}
	if err := prebuilt.Reference(o.bin, otherPlugins...); err != nil {
		t.Fatal(err)
	}
	for _, name := range bothNodes {
		node, err := client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		o.nodes[name] = node
	}
	return o
}

// install puts it on all nodes. That the real loopback plugin can be copied to where
// podfence's was is part of what is tested.
func (o *otherPlugin) install(t *testing.T) {
	t.Helper()
	for name := range o.nodes {
		for _, path := range otherPlugins {
			program := filepath.Base(path)
			text, err := os.ReadFile(filepath.Join(o.bin, program))
			if err != nil {
				t.Fatal(err)
			}
			cmd, err := theCluster.Exec(context.Background(), name, "sh", "-c", `cat >/tmp/"$0" && mkdir -p /opt/cni/bin && cp /tmp/"$0" /opt/cni/bin/"$0" && chmod 755 /opt/cni/bin/"$0"`, program)
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdin = strings.NewReader(string(text))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s on %s: %v: %s", program, name, err, out)
			}
		}
		o.route(t, name, "replace")
		o.configure(t, name)
	}
}

// route has all other hosts send to a node what is for its pods.
func (o *otherPlugin) route(t *testing.T, name, verb string) {
	t.Helper()
	for _, host := range append([]string{"cp"}, bothNodes...) {
		for i, cidr := range o.nodes[name].Spec.PodCIDRs {
			if host != name {
				run(t, host, "sh", "-c", fmt.Sprintf("ip route %s %s via %s || [ %s = del ]", verb, cidr, nodeIPs(t, name)[i], verb))
			}
		}
	}
}

// configure writes its conflist on a node, with plugins more behind its own.
func (o *otherPlugin) configure(t *testing.T, name string, behind ...any) {
	t.Helper()
	type m = map[string]any
	var ranges, routes []any
	for _, cidr := range o.nodes[name].Spec.PodCIDRs {
		ranges = append(ranges, []any{m{"subnet": cidr}})
		everything := "0.0.0.0/0"
		if strings.Contains(cidr, ":") {
			everything = "::/0"
		}
		routes = append(routes, m{"dst": everything})
	}
	plugins := append([]any{m{"type": "ptp", "ipMasq": false, "ipam": m{"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": "/var/lib/cni/other"}}}, behind...)
	text, err := json.Marshal(m{"cniVersion": "1.0.0", "name": "other", "plugins": plugins})
	if err != nil {
		t.Fatal(err)
	}
	replaceOn(t, name, otherConflist, string(text))
}

// remove takes it off all nodes.
func (o *otherPlugin) remove(t *testing.T) {
	t.Helper()
	for name := range o.nodes {
		run(t, name, "sh", "-c", "rm -rf "+otherConflist+" /var/lib/cni/other /opt/cni/bin/ptp /opt/cni/bin/host-local /opt/cni/bin/loopback")
		o.route(t, name, "del")
	}
}

// uninstallKey labels nodes that podfence is to be removed from.
const uninstallKey = "podfence.io/uninstall"

// TestUninstall: podfence is removed from one node, while the other goes on, and then from
// that. Another network plugin is installed, and its pods reach each other. On it podfence
// is installed anew, as policy alone, then behind the other plugin, then as policy alone
// again, and fences pods that run and pods that start; then it is removed again.
func TestUninstall(t *testing.T) {
	ns, open := newNamespace(t), newNamespace(t)
	friendsAndServers(t, ns)
	other, asker := newOtherPlugin(t), newPlugin(t)
	t.Cleanup(func() {
		showNodes(t, ns)
		other.remove(t)
		reinstall(t, ns, open)
	})
	before := startAll(t, ns, open)
	before.expectFenced(t, "before anything is done")
	before.expectVerified(t, asker, "before anything is done")
	talk := keepTalking(t, before.friends[0], podIPs(before.servers[0])[0])

	uninstallFrom(t, "node2")
	expectCleared(t, "node2")
	expectWays(t, "node1 to be as before", ways("friend", netnsOf(t, before.friends[0]), podIPs(before.servers[0]), 8080, 0),
		ways("stranger", netnsOf(t, before.strangers[0]), podIPs(before.servers[0]), 8080, 0))
	talk.check(t, "on node1, while podfence is removed from node2")
	uninstallFrom(t, "node1")
	expectCleared(t, "node1")

	// Without a plugin the pods of podfence's own namespace, which the status writer has, would not end.
	other.install(t)
	if err := theCluster.WaitReady(context.Background(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "delete", "-k", "../../config/uninstall", "--ignore-not-found")
	kubectl(t, "delete", "-k", "../../config/default", "--ignore-not-found")
	// All that were cut off: their addresses are given out again.
	remake(t, ns, open)
	pods := startAll(t, ns, open)
	pods.expectOpen(t, "with another plugin, and without podfence")
	for _, node := range bothNodes {
		expectCleared(t, node)
	}

	unlabel(t)
	applyOverlay(t, "policy-only")
	agentsReady(t)
	pods.expectFenced(t, "policy alone")
	pods.expectVerified(t, asker, "policy alone")
	applyOverlay(t, "chained")
	check.Eventually(t, 3*time.Minute, "an agent to say that nobody calls podfence", func() error {
		var said []string
		for _, node := range bothNodes {
			_, body, err := readyz(node)
			said = append(said, fmt.Sprint(body, err))
		}
		if all := strings.Join(said, "; "); !strings.Contains(all, "ConflistShadowed") || !strings.Contains(all, otherConflist) {
			return errors.New(all)
		}
		return nil
	})
	pods.expectFenced(t, "chained, with pods of before")
	for _, node := range bothNodes {
		other.configure(t, node, map[string]any{"type": "podfence", "mode": "chained"})
	}
	agentsReady(t)
	remake(t, ns, open)
	pods = startAll(t, ns, open)
	pods.expectFenced(t, "chained, with pods of its own")
	pods.expectVerified(t, asker, "chained")

	applyOverlay(t, "uninstall")
	kubectl(t, "label", "node", "node2", uninstallKey+"=true")
	expectRefused(t, "node2", otherConflist)
	pods.expectFenced(t, "refused to be removed")
	unlabel(t)
	for _, node := range bothNodes {
		other.configure(t, node)
	}
	applyOverlay(t, "policy-only")
	agentsReady(t)
	pods.expectFenced(t, "policy alone, after chained")
	for _, node := range bothNodes {
		uninstallFrom(t, node)
		expectCleared(t, node)
	}
	pods.expectOpen(t, "without podfence again")
}

// allPods are a server, a friend and a stranger on each node.
type allPods struct{ servers, friends, strangers []*corev1.Pod }

func startAll(t *testing.T, ns, open string) allPods {
	t.Helper()
	var all []*corev1.Pod
	for _, node := range bothNodes {
		all = append(all, newPod(ns, "server-"+node, on(node), labelled("app", "server")),
			newPod(ns, "friend-"+node, on(node), labelled("app", "friend")), newPod(open, "stranger-"+node, on(node)))
	}
	all = start(t, all...)
	return allPods{[]*corev1.Pod{all[0], all[3]}, []*corev1.Pod{all[1], all[4]}, []*corev1.Pod{all[2], all[5]}}
}

func (p allPods) expectFenced(t *testing.T, when string) {
	t.Helper()
	expectWays(t, "friends to reach servers, and strangers not to: "+when, waysBetween(t, p.friends, p.servers), waysBetween(t, p.strangers, p.servers))
}

// expectVerified expects that the kernels say of these ways what expectFenced has found, to who asks by the
// plugin of kubectl.
func (p allPods) expectVerified(t *testing.T, asker plugin, when string) {
	t.Helper()
	for code, all := range map[int][]*corev1.Pod{0: p.friends, 1: p.strangers} {
		for _, from := range all {
			for _, to := range p.servers {
				got, out, errOut := asker.call(t, "explain", "--verify", from.Namespace+"/"+from.Name, to.Namespace+"/"+to.Name+":8080")
				if asked := strings.Count(out, "kernel of node "); got != code || asked == 0 {
					t.Errorf("%s: %s to %s: exit code %d instead of %d:\n%s%s", when, from.Name, to.Name, got, code, out, errOut)
				}
			}
		}
	}
}

func (p allPods) expectOpen(t *testing.T, when string) {
	t.Helper()
	expectWays(t, "all to reach servers: "+when, append(waysBetween(t, p.friends, p.servers), waysBetween(t, p.strangers, p.servers)...), nil)
}

// uninstallFrom removes podfence from a node, as docs/CNI.md says.
func uninstallFrom(t *testing.T, node string) {
	t.Helper()
	applyOverlay(t, "uninstall")
	kubectl(t, "label", "node", node, uninstallKey+"=true")
	check.Eventually(t, 3*time.Minute, "podfence to be removed from "+node, func() error {
		pod, err := uninstaller(node)
		if err == nil && !isReady(pod) {
			err = fmt.Errorf("it is %s: %+v", pod.Status.Phase, pod.Status.InitContainerStatuses)
		}
		return err
	})
	pod, err := uninstaller(node)
	if err != nil {
		t.Fatal(err)
	}
	said := kubectl(t, "--namespace", pod.Namespace, "logs", pod.Name, "--container", "uninstall")
	if !strings.Contains(said, "nothing of podfence is left on this node") {
		t.Errorf("it has said: %s", said)
	}
	t.Logf("removed from %s:\n%s", node, said)
}

func uninstaller(node string) (*corev1.Pod, error) {
	pods, err := client.CoreV1().Pods("kube-system").List(context.Background(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=uninstall", FieldSelector: "spec.nodeName=" + node,
	})
	if err == nil && len(pods.Items) != 1 {
		err = fmt.Errorf("there are %d uninstallers", len(pods.Items))
	}
	if err != nil {
		return nil, err
	}
	return &pods.Items[0], nil
}

// expectRefused waits until the uninstaller of a node says that it refuses, and why.
func expectRefused(t *testing.T, node, why string) {
	t.Helper()
	check.Eventually(t, 2*time.Minute, "uninstalling to be refused on "+node, func() error {
		pod, err := uninstaller(node)
		if err != nil {
			return err
		}
		// The last one that has ended: one that runs has said nothing yet.
		said, err := theCluster.Kubectl(context.Background(), "--namespace", pod.Namespace, "logs", pod.Name, "--container", "uninstall", "--previous")
		if err == nil && !(strings.Contains(said, "refused") && strings.Contains(said, why)) {
			err = fmt.Errorf("it says: %s", said)
		}
		return err
	})
}

func unlabel(t *testing.T) {
	t.Helper()
	kubectl(t, "delete", "-k", "../../config/uninstall", "--ignore-not-found")
	kubectl(t, "label", "nodes", "--all", uninstallKey+"-")
}

// expectCleared fails the test for what is left of podfence on a node.
func expectCleared(t *testing.T, node string) {
	t.Helper()
	for _, look := range []string{
		"nft list tables | grep podfence", "ip -o link | grep -E 'podfence|: pf[a-z2-7]{13}@'", "ip rule | grep 28774", "ip -6 rule | grep 28774",
		"ip route show table all proto 112", "ip -6 route show table all proto 112",
		"ls -d /etc/cni/net.d/*podfence* /opt/cni/bin/podfence /var/lib/cni/podfence", "ls /run/podfence",
		"strings -n 20 /opt/cni/bin/loopback 2>/dev/null | grep github.com/podfence || [ ! -L /opt/cni/bin/loopback ] || echo link",
	} {
		if left := run(t, node, "sh", "-c", "{ "+look+"; } 2>/dev/null || true"); strings.TrimSpace(left) != "" {
			t.Errorf("on %s is left, by %s:\n%s", node, look, left)
		}
	}
	if _, _, err := readyz(node); err == nil {
		t.Error(errors.New("an agent answers on " + node))
	}
}

// showNodes, when the test has failed, logs what there was to see by then.
func showNodes(t *testing.T, namespace string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	t.Log(kubectl(t, "get", "pods", "-A", "-o", "wide"), kubectl(t, "--namespace", namespace, "get", "events"))
	for _, node := range bothNodes {
		t.Logf("%s:\n%s", node, run(t, node, "sh", "-c", "nft list tables; nft list table inet podfence; nft list table bridge podfence; ip addr; ip route; ip neigh; ls /etc/cni/net.d /run/podfence/attachments; true"))
	}
}

// reinstall has the cluster be as it was before the test, whatever has happened.
func reinstall(t *testing.T, namespaces ...string) {
	unlabel(t)
	applyToAll(t, "default")
	if err := theCluster.WaitReady(context.Background(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	// The runtime ends pods by the network that there is, whoever has connected them. While
	// there are some of the other plugin's, the agents are not ready.
	remake(t, namespaces...)
	agentsReady(t)
}

// applyToAll installs an overlay, and has all agents replaced at once: one that waits for
// pods of before to be made anew keeps no other from being replaced.
func applyToAll(t *testing.T, overlay string) {
	t.Helper()
	applyOverlay(t, overlay)
	kubectl(t, "--namespace", agentNamespace, "patch", "daemonset", agentName, "--patch",
		`{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":"100%"}}}}`)
}

// remake deletes the pods of namespaces, and has those of the cluster's DNS made anew, and podfence's own that
// write the status of ClusterNetworkPolicies, if there are any.
func remake(t *testing.T, namespaces ...string) {
	t.Helper()
	for _, ns := range namespaces {
		deletePods(t, ns)
	}
	kubectl(t, "--namespace", agentNamespace, "delete", "pods", "-l", "app.kubernetes.io/component=status-writer", "--grace-period=1")
	kubectl(t, "--namespace", "kube-system", "delete", "pods", "-l", "k8s-app=kube-dns", "--grace-period=1")
	kubectl(t, "--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=3m")
}
