package controllers_test

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"github.com/podfence/podfence/agent"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/recorder"
)

// world is a cluster with a kernel: its node and pods are network namespaces
// too, and real packets go between them.
type world struct {
	*cluster
	lab   *lab.Lab
	where *lab.Node
	// kernel is the node's, and notes what it is told.
	kernel *recorder.Kernel
	watch  *kernel.Watch
	hosts  int
}

// newWorld makes the node's namespace, without pods and without an agent.
func newWorld() *world {
	GinkgoHelper()
	if err := lab.Check(); err != nil {
		Skip("no kernel to try it on: " + err.Error())
	}
	w := &world{cluster: newCluster()}
	var err error
	// A batch of probes is tried again by Eventually, so each may give up soon.
	w.lab, err = lab.New(lab.Options{Settle: 60 * time.Millisecond, Patience: 250 * time.Millisecond})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(w.lab.Close)
	w.where, err = w.lab.AddNode(w.node, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"))
	Expect(err).NotTo(HaveOccurred())
	conn, err := kernel.Open(kernel.Options{NetNS: w.where.NetNS()})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(conn.Close)
	w.kernel = &recorder.Kernel{Next: conn}
	watch, err := conn.Watch(kernel.Options{NetNS: w.where.NetNS()})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(watch.Close)
	w.watch = watch
	return w
}

// watchCluster starts an agent for the node, with the API server as source.
func (w *world) watchCluster() *running {
	GinkgoHelper()
	started := run(w.kernel, agent.Options{Node: w.node, API: agentUser, Watch: w.watch})
	started.awaitReady()
	return started
}

// host makes the network namespace of a pod, with a pair of addresses that is
// its own; the API server knows nothing of it.
func (w *world) host(name string) *lab.Host {
	GinkgoHelper()
	w.hosts++
	host, err := w.where.AddPod(name, lab.PodOptions{IPs: w.ips(w.hosts + 1)})
	Expect(err).NotTo(HaveOccurred())
	return host
}

// pod makes a running pod: object, status and network namespace.
func (w *world) pod(namespace, name string, labels map[string]string) (*lab.Host, *corev1.Pod) {
	GinkgoHelper()
	host := w.host(namespace + "/" + name)
	pod := w.cluster.pod(namespace, name, labels)
	runsAt(pod, host.IPs...)
	return host, pod
}

// want is the fate that a new connection's first packet should have.
type want struct {
	from, to *lab.Host
	dst      netip.Addr
	port     uint16
	arrives  bool
}

// arrive says that TCP to the port must pass, for every address of the
// receiver; lost that it must not.
func arrive(from, to *lab.Host, port uint16) []want { return wants(from, to, port, true) }
func lost(from, to *lab.Host, port uint16) []want   { return wants(from, to, port, false) }

func wants(from, to *lab.Host, port uint16, arrives bool) (all []want) {
	for _, dst := range to.IPs {
		all = append(all, want{from, to, dst, port, arrives})
	}
	return all
}

// at keeps the wants of one address family.
func at(like netip.Addr, all []want) (kept []want) {
	for _, w := range all {
		if w.dst.Is4() == like.Is4() {
			kept = append(kept, w)
		}
	}
	return kept
}

// otherwise sends what is wanted and returns what went otherwise.
func (w *world) otherwise(ctx context.Context, all ...[]want) func() ([]string, error) {
	var probes []lab.Probe
	for _, wants := range all {
		for _, want := range wants {
			probes = append(probes, lab.Probe{
				From: want.from, To: want.to, Expect: want.arrives,
				Packet: policy.Packet{Dst: want.dst, Protocol: policy.TCP, DstPort: want.port},
			})
		}
	}
	return func() (wrong []string, err error) {
		results, err := w.lab.Probe(ctx, probes)
		for _, r := range results {
			if !r.AsExpected() {
				wrong = append(wrong, r.String())
			}
		}
		return wrong, err
	}
}

// eventually waits until packets fare as wanted; all of them in one batch, so
// that what is lost is not lost because the machine is busy. A batch that a
// commit comes in the middle of can show half of the old state and half of the
// new one, so the next batch must agree.
func (w *world) eventually(ctx context.Context, all ...[]want) {
	GinkgoHelper()
	batch := w.otherwise(ctx, all...)
	Eventually(func() ([]string, error) {
		if wrong, err := batch(); err != nil || len(wrong) > 0 {
			return wrong, err
		}
		return batch()
	}, soon, often).Should(BeEmpty())
}

// always checks that packets go on faring as wanted.
func (w *world) always(ctx context.Context, all ...[]want) {
	GinkgoHelper()
	Consistently(w.otherwise(ctx, all...), while, often).Should(BeEmpty())
}

// nft runs nft on the node.
func (w *world) nft(args ...string) string {
	GinkgoHelper()
	out, err := w.tryNFT(args...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

func (w *world) tryNFT(args ...string) (string, error) {
	var out []byte
	err := w.where.Do(func() (err error) { // a child is in its thread's namespace
		out, err = exec.Command("nft", args...).CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("nft %v: %w: %s", args, err, out)
	}
	return string(out), nil
}

// table is the node's table as nft lists it, without counts.
func (w *world) table() string {
	GinkgoHelper()
	return w.nft("-s", "list", "table", "inet", "podfence")
}

// chain matches a listing that has a pod's or a policy's chain.
func chain(kind string, object interface {
	GetNamespace() string
	GetName() string
}) OmegaMatcher {
	return MatchRegexp(`(?m)^\tchain %s-[a-z2-7]{16}-%s/%s \{$`, kind, object.GetNamespace(), object.GetName())
}
