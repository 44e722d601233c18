package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/fence"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
	"github.com/podfence/podfence/test/scale"
)

// natCore keeps the kernel's NAT in its hooks, as kube-proxy does on every node: flows that
// podfence has masqueraded stay so while its table sleeps.
const natCore = `table inet nat-core {
	chain postrouting {
		type nat hook postrouting priority srcnat + 1; policy accept;
	}
}`

// outside is a host that is not of the cluster.
var outside = netip.MustParseAddr("198.51.100.7")

// newInstalled are the ways by which packets of a pod go where podfence is installed as it is
// by default: the pods are connected by its plugin, and its agents have made the bridge with
// its guard, the rules with the check of sources and masquerading, and the tunnel to another
// node. The agents have ended, and what they have made stays. The node has a hundred policies
// and 250 pods, as in allRules.
func newInstalled(b *testing.B) map[string]*wire {
	b.Helper()
	l, err := lab.New(lab.Options{})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
	size := scale.Size{Pods: 250, Local: 250, Namespaces: 10, Policies: 100}
	objects := []runtime.Object{}
	var nodes []*lab.Node
	for i, object := range (scale.Size{Pods: 1}).Nodes() {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		object.Status.Addresses[0].Address = addr.String()
		objects = append(objects, object)
		n, err := l.AddNode(object.Name, addr)
		must(b, err)
		must(b, n.Do(func() error { return setMTU("lo", 1500) })) // that of the nodes' links
		nodes = append(nodes, n)
	}
	must(b, l.Connect(nodes[0], nodes[1]))
	for n := range size.Namespaces {
		objects = append(objects, scale.Namespace(n))
	}
	for n := range size.Policies {
		objects = append(objects, size.Policy(n))
	}
	toOutside := measuredPolicy("client-to-outside")
	toOutside.Spec.PodSelector, toOutside.Spec.PolicyTypes, toOutside.Spec.Ingress = *role("client"), []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, nil
	toOutside.Spec.Egress[0].To = []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: outside.String() + "/32"}}}
	objects = append(objects, measuredPolicy("server-from-client"), toOutside)

	folder := b.TempDir()
	manifests := filepath.Join(folder, "manifests")
	must(b, os.Mkdir(manifests, 0o700))
	write := func(name string, objects []runtime.Object) {
		must(b, os.WriteFile(filepath.Join(manifests, name), yamlOf(b, objects), 0o600))
	}
	write("cluster.yaml", objects)
	var pods []runtime.Object // the agents know them before they have addresses
	for _, p := range []struct {
		name, app, role string
		on              int
	}{{"client", "app-7", "client", 0}, {"server", "app-5", "server", 0}, {"remote", "app-5", "server", 1}} {
		pod := measuredPod(p.name, p.app, netip.Addr{})
		pod.UID, pod.Labels["role"], pod.Spec.NodeName, pod.Status = types.UID(p.name), p.role, nodes[p.on].Name, corev1.PodStatus{Phase: corev1.PodPending}
		pods = append(pods, pod)
	}
	write("pods.yaml", pods)
	plugin := filepath.Join(folder, "podfence-cni")
	must(b, prebuilt.Plugin(plugin))
	fences := map[string]*fence.Fence{}
	for _, n := range nodes {
		fences[n.Name], err = fence.Start(n, fence.Options{Manifests: manifests, Dir: filepath.Join(folder, n.Name), Plugin: plugin, Mode: node.VXLAN, Log: logr.Discard()})
		must(b, err)
		check.Eventually(b, time.Minute, "pods to be connectable", func() error { _, err := fences[n.Name].Conflist(); return err })
	}
	hosts, taken := map[string]*lab.Host{}, map[string]bool{}
	for _, object := range pods {
		pod := object.(*corev1.Pod)
		f := fences[pod.Spec.NodeName]
		h, err := f.Node.AddSandbox(pod.Name)
		must(b, err)
		ips, err := f.Add(context.Background(), h, policy.Key{Namespace: pod.Namespace, Name: pod.Name}, string(pod.UID))
		must(b, err)
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ips[0].String(), PodIPs: []corev1.PodIP{{IP: ips[0].String()}}}
		hosts[pod.Name], taken[pod.Status.PodIP] = h, true
	}
	for n := range size.Pods {
		if pod := size.Pod(n); !taken[pod.Status.PodIP] {
			pods = append(pods, pod)
		}
	}
	write("pods.yaml", pods)
	hosts["outside"], err = nodes[0].AddExternal("outside", outside)
	must(b, err)
	ways := map[string]*wire{
		"bridge":     {nodes: nodes[:1], client: hosts["client"], server: hosts["server"], stranger: hosts["outside"], source: hosts["client"].IPs[0]},
		"vxlan":      {nodes: nodes, client: hosts["client"], server: hosts["remote"], stranger: hosts["outside"], source: hosts["client"].IPs[0]},
		"masquerade": {nodes: nodes[:1], client: hosts["client"], server: hosts["outside"], stranger: hosts["server"], source: nodes[0].IPs[0]},
	}
	for _, w := range ways {
		w.prepare(b)
		check.Eventually(b, time.Minute, "all that is allowed to pass", func() error { return w.wrong(false) })
	}
	for _, n := range nodes {
		must(b, fences[n.Name].Stop())
		loadNFT(b, n, tracking+"\n"+natCore+"\n"+emptyRules("empty"))
	}
	return ways
}

// sleeping returns what puts podfence's tables to sleep, with empty rules in their place, and
// wakes them.
func (w *wire) sleeping(b *testing.B) (rules, none func()) {
	own, empty := []string{"inet podfence", "bridge podfence"}, []string{"inet empty"}
	for _, n := range w.nodes {
		for _, table := range own {
			loadNFT(b, n, "list table "+table) // or waking it would make it
		}
	}
	return w.change(b, own, empty), w.change(b, empty, own)
}

// tunnelled is how many packets a node has sent through the tunnel.
func tunnelled(b *testing.B, n *lab.Node) (packets uint64) {
	b.Helper()
	must(b, n.Do(func() error {
		link, err := netlink.LinkByName(node.DefaultVXLANDevice)
		if err == nil {
			packets = link.Attrs().Statistics.TxPackets
		}
		return err
	}))
	return packets
}

func setMTU(name string, mtu int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, mtu)
}

// yamlOf is objects as manifests.
func yamlOf(b *testing.B, objects []runtime.Object) []byte {
	b.Helper()
	var all bytes.Buffer
	for _, object := range objects {
		kinds, _, err := scheme.Scheme.ObjectKinds(object)
		must(b, err)
		object.GetObjectKind().SetGroupVersionKind(kinds[0])
		text, err := yaml.Marshal(object)
		must(b, err)
		fmt.Fprintf(&all, "---\n%s", text)
	}
	return all.Bytes()
}
