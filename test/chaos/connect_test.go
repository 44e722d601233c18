package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/fence"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/logbook"
	"github.com/podfence/podfence/test/random"
)

// edge is a node whose pods the CNI plugin connects. They may send to one port of the
// world outside, and are denied another, which they try all the time.
type edge struct {
	*world
	t       *testing.T
	lab     *lab.Lab
	node    *lab.Node
	outside *lab.Host
	relay   *agent.Relay
	options fence.Options
	fence   *fence.Fence

	namespace string
	uids      map[string]string // of the pods, by name
	log       logbook.Book      // of the agents
	outcome
	arrived *atomic.Int64 // of what is denied
}

const (
	edgeName                = "edge" // of the node
	allowedPort, deniedPort = 1000, 2000
)

// newEdge makes the node, and a namespace, which no other test may have: nothing here
// finalises namespaces.
func newEdge(t *testing.T, namespace string) *edge {
	t.Helper()
	e := &edge{world: theWorld(t), t: t, namespace: namespace, uids: map[string]string{}}
	var err error
	e.lab, err = lab.New(lab.Options{})
	check.NoError(t, err)
	t.Cleanup(func() { check.NoError(t, e.lab.Close()) })
	address := netip.MustParseAddr("192.0.2.9")
	e.node, err = e.lab.AddNode(edgeName, address)
	check.NoError(t, err)
	check.NoError(t, e.node.Do(ethernetMTU))
	e.outside, err = e.node.AddExternal("outside", netip.MustParseAddr("198.51.100.1"))
	check.NoError(t, err)
	// The world's other nodes, which must be on some way for there to be a network.
	for i, other := range [][]netip.Addr{random.NodeAddrs, random.OtherNodeAddrs} {
		_, err := e.node.AddExternal(fmt.Sprint("other-", i), other...)
		check.NoError(t, err)
	}
	e.arrived = countArrivals(t, e.outside, deniedPort)
	e.write(address)
	server, err := url.Parse(e.server.Config.Host)
	check.NoError(t, err)
	config := rest.CopyConfig(e.server.Config)
	e.relay, config.Host, err = agent.NewLocalRelay(server.Host)
	check.NoError(t, err)
	t.Cleanup(func() { check.NoError(t, e.relay.Close()) })
	config.Host = "https://" + config.Host
	e.options = fence.Options{API: config, Dir: t.TempDir(), Plugin: e.plugin, Mode: node.HostGW, Log: e.log.Logger()}
	e.start()
	t.Cleanup(func() {
		check.NoError(t, e.fence.Stop())
		if t.Failed() {
			t.Logf("the agents' logs:\n%s", strings.Join(e.log.With(""), "\n"))
		}
	})
	check.Eventually(t, soon, "a CNI configuration", func() error { _, err := e.fence.Conflist(); return err })
	return e
}

func (e *edge) start() {
	e.t.Helper()
	var err error
	e.fence, err = fence.Start(e.node, e.options)
	check.NoError(e.t, err)
}

// write writes what the API has of the node but its pods.
func (e *edge) write(address netip.Addr) {
	e.t.Helper()
	ctx, api := e.t.Context(), e.server.API
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: edgeName}, Spec: corev1.NodeSpec{PodCIDR: "10.244.9.0/24", PodCIDRs: []string{"10.244.9.0/24"}}}
	written, err := api.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	check.NoError(e.t, err)
	e.t.Cleanup(func() {
		check.NoError(e.t, api.CoreV1().Nodes().Delete(context.Background(), edgeName, metav1.DeleteOptions{}))
	})
	written.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.String()}}
	_, err = api.CoreV1().Nodes().UpdateStatus(ctx, written, metav1.UpdateOptions{})
	check.NoError(e.t, err)
	_, err = api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.namespace}}, metav1.CreateOptions{})
	check.NoError(e.t, err)
	udp, port := corev1.ProtocolUDP, intstr.FromInt32(allowedPort)
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "one-port"}, Spec: networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress:      []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp, Port: &port}}}},
	}}
	_, err = api.NetworkingV1().NetworkPolicies(e.namespace).Create(ctx, np, metav1.CreateOptions{})
	check.NoError(e.t, err)
}

// ethernetMTU gives the loopback link, which a lab's node has its addresses on, the MTU
// of a usual one.
func ethernetMTU() error {
	link, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, 1500)
}

// schedule makes a pod on the node, in the API.
func (e *edge) schedule(name string) {
	e.t.Helper()
	no := false
	pod, err := e.server.API.CoreV1().Pods(e.namespace).Create(e.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: edgeName, AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "main", Image: "image"}}},
	}, metav1.CreateOptions{})
	check.NoError(e.t, err)
	e.uids[name] = string(pod.UID)
}

// container is a pod's network namespace, which sends what is denied from the very
// first moment, whether it is connected or not.
type container struct {
	*lab.Host
	pod  string
	sent atomic.Int64
	stop chan struct{}
	done sync.WaitGroup
}

// run makes a container for a pod.
func (e *edge) run(pod, name string) *container {
	e.t.Helper()
	host, err := e.node.AddSandbox(name)
	check.NoError(e.t, err)
	c := &container{Host: host, pod: pod, stop: make(chan struct{})}
	to := netip.AddrPortFrom(e.outside.IPs[0], deniedPort)
	c.done.Go(func() {
		for {
			select {
			case <-c.stop:
				return
			case <-time.After(time.Millisecond):
			}
			conn, err := c.Dial(context.Background(), policy.UDP, to)
			if err != nil {
				continue // there is no route yet
			}
			if _, err := conn.Write([]byte("x")); err == nil {
				c.sent.Add(1)
			}
			_ = conn.Close()
		}
	})
	return c
}

// add connects a container, once, as kubelet tries.
func (e *edge) add(c *container, within time.Duration) error {
	ctx, cancel := context.WithTimeout(e.t.Context(), within)
	defer cancel()
	_, err := e.fence.Add(ctx, c.Host, policy.Key{Namespace: e.namespace, Name: c.pod}, e.uids[c.pod])
	return err
}

// remove ends a container, by the plugin too if it was connected.
func (e *edge) remove(c *container, connected bool) {
	e.t.Helper()
	close(c.stop)
	c.done.Wait()
	e.denied += c.sent.Load()
	if connected {
		check.NoError(e.t, e.fence.Del(context.Background(), c.Host, policy.Key{Namespace: e.namespace, Name: c.pod}, e.uids[c.pod]))
	}
	check.NoError(e.t, e.node.RemoveSandbox(c.Name))
}

// reaches makes sure that what is allowed passes, while what is denied is tried.
func (e *edge) reaches(c *container) {
	e.t.Helper()
	results, err := e.lab.Probe(e.t.Context(), []lab.Probe{
		{From: c.Host, To: e.outside, Packet: policy.Packet{Dst: e.outside.IPs[0], Protocol: policy.UDP, DstPort: allowedPort}, Expect: true},
	})
	check.NoError(e.t, err)
	e.allowed++
	if !results[0].Arrived {
		e.broken++
	}
	sent := c.sent.Load()
	check.Eventually(e.t, soon, "what is denied", func() error {
		if n := c.sent.Load() - sent; n < 50 {
			return fmt.Errorf("%d packets", n)
		}
		return nil
	})
}

// end records the fault, once it is sure that what is denied arrives without rules.
func (e *edge) end(fault string, times int) {
	e.t.Helper()
	e.times, e.leaked = times, e.arrived.Load()
	e.schedule("unfenced")
	last := e.run("unfenced", "unfenced")
	check.NoError(e.t, e.add(last, soon))
	check.NoError(e.t, e.flush())
	check.Eventually(e.t, soon, "what is denied, without rules", func() error {
		if e.arrived.Load() == e.leaked {
			return errors.New("nothing has arrived: nothing can be told by it")
		}
		return nil
	})
	e.remove(last, true)
	record(e.t, fault, e.outcome)
}

// hasty is how long an ADD is waited for that must not succeed.
const hasty = time.Second

// TestPodConnectedWhileAPIServerAway: a pod that the agent has seen gets its rules, and
// one that it has not stays closed.
func TestPodConnectedWhileAPIServerAway(t *testing.T) {
	e := newEdge(t, "seen")
	n := timesSlow(3)
	for i := range n {
		seen, unseen := fmt.Sprintf("seen-%d", i), fmt.Sprintf("unseen-%d", i)
		e.schedule(seen)
		first := e.run(seen, seen+"-1")
		check.NoError(t, e.add(first, soon)) // so the agent has seen it
		e.remove(first, true)

		e.relay.Refuse()
		e.schedule(unseen)
		stranger, known := e.run(unseen, unseen), e.run(seen, seen+"-2")
		if e.add(stranger, hasty) == nil {
			t.Error("ADD of a pod that the agent knows nothing of: no error")
		}
		check.NoError(t, e.add(known, soon))
		e.reaches(known)
		check.NoError(t, e.relay.Heal())
		check.Eventually(t, soon, "ADD of the other", func() error { return e.add(stranger, soon) })
		e.reaches(stranger)
		e.remove(known, true)
		e.remove(stranger, true)
	}
	e.end("pods connected while the API server is away: one that the agent has seen, one that it has not", n)
}

// TestReboot takes from a node what does not outlive a reboot, and starts the agent
// before the API server is there: no pod gets anything through before its rules are in
// the kernel.
func TestReboot(t *testing.T) {
	e := newEdge(t, "rebooted")
	n := timesSlow(10)
	for i := range n {
		pod := fmt.Sprintf("pod-%d", i)
		e.schedule(pod)
		before := e.run(pod, pod+"-1")
		check.NoError(t, e.add(before, soon))
		e.reaches(before)

		check.NoError(t, e.fence.Stop())
		e.remove(before, false)
		check.NoError(t, e.node.Do(func() error {
			bridge, err := netlink.LinkByName(node.DefaultBridge)
			if err != nil {
				return err
			}
			return netlink.LinkDel(bridge)
		}))
		check.NoError(t, e.flush())
		check.NoError(t, os.RemoveAll(filepath.Join(e.options.Dir, "attachments")))
		e.relay.Refuse()
		e.start()
		after := e.run(pod, pod+"-2")
		if e.add(after, hasty) == nil {
			t.Error("ADD before the first commit: no error")
		}
		check.NoError(t, e.relay.Heal())
		check.Eventually(t, soon, "ADD after the reboot", func() error { return e.add(after, soon) })
		e.reaches(after)
		e.remove(after, true)
	}
	e.end("node rebooted (tables, links, /run gone), agent up before the API server", n)
}

// flush empties the node's ruleset.
func (e *edge) flush() error {
	return e.node.Do(func() error { return command("nft", "flush", "ruleset") })
}

// command runs a program in the namespace of the calling thread.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
