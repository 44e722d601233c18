package alerts_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// faults has the tests run in which each fault is made, which take some minutes.
var faults = flag.Bool("alerts", false, "make each fault that an alert is for")

// soon is how long something may take on a busy machine.
const soon = time.Minute

func needsFaults(t *testing.T) {
	t.Helper()
	if !*faults {
		t.Skip("it starts agents and makes faults, which takes minutes; with -alerts, as by make test-alerts, it is done")
	}
	check.NoError(t, lab.Check())
}

// site is a node with an agent, a process of its own, that enforces a folder.
type site struct {
	*testing.T
	lab       *lab.Lab
	node      *lab.Node
	agent     *agent.Agent
	manifests string
	film      film
}

// program builds podfence of a version.
func program(t *testing.T, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "podfence")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", path, "github.com/podfence/podfence")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build podfence: %v\n%s", err, out)
	}
	return path
}

// openLab makes a lab that the test closes.
func openLab(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{})
	check.NoError(t, err)
	t.Cleanup(func() { check.NoError(t, l.Close()) })
	return l
}

// newSite starts an agent on a node that has two pods, of which web is isolated, and scrapes it once, for so
// many quiet minutes.
func newSite(t *testing.T, quiet int, args ...string) *site {
	t.Helper()
	needsFaults(t)
	s := &site{T: t, lab: openLab(t), manifests: t.TempDir()}
	var err error
	s.node, err = s.lab.AddNode("node-1", netip.MustParseAddr("192.0.2.1"))
	check.NoError(t, err)
	for name, ip := range map[string]string{"shop/web": "10.244.1.7", "shop/client": "10.244.1.8"} {
		_, err := s.node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr(ip)}})
		check.NoError(t, err)
	}
	s.write("cluster.yaml", `
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.244.1.0/24]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-1}
status: {podIPs: [{ip: 10.244.1.7}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: node-1}
status: {podIPs: [{ip: 10.244.1.8}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}}
`)
	s.agent = s.start(s.node, program(t, "v1"), args...)
	s.shoot()
	s.film.hold(quiet - 1)
	return s
}

// start starts an agent, and waits until it enforces.
func (s *site) start(node *lab.Node, binary string, args ...string) *agent.Agent {
	s.Helper()
	a, err := agent.Start(agent.Options{Binary: binary, Node: node, Manifests: s.manifests, Args: args})
	check.NoError(s, err)
	s.Cleanup(func() { check.NoError(s, a.Kill()) })
	ctx, cancel := context.WithTimeout(s.Context(), soon)
	defer cancel()
	check.NoError(s, a.AwaitReady(ctx))
	return a
}

func (s *site) write(name, text string) {
	s.Helper()
	check.NoError(s, os.WriteFile(filepath.Join(s.manifests, name), []byte(text), 0o600))
}

// shoot scrapes the agent, for another minute of the film.
func (s *site) shoot() {
	s.Helper()
	exposition, err := s.agent.Exposition(s.Context())
	check.NoError(s, err)
	s.film = append(s.film, frame("node-1", parsed(s.T, exposition)))
}

// shootUntil scrapes until the agent tells of the fault.
func (s *site) shootUntil(what string, told func() bool) {
	s.Helper()
	check.Eventually(s, soon, what, func() error {
		s.film = s.film[:len(s.film):len(s.film)]
		s.shoot()
		if !told() {
			s.film = s.film[:len(s.film)-1]
			return fmt.Errorf("the agent does not tell of it")
		}
		return nil
	})
}

// TestNotEnforcing: the folder of manifests is emptied.
func TestNotEnforcing(t *testing.T) {
	s := newSite(t, 10)
	check.NoError(t, os.Remove(filepath.Join(s.manifests, "cluster.yaml")))
	s.shootUntil("the folder is empty", func() bool { return s.film.of("podfence_unhealthy", `condition="ManifestsEmpty"`) == 1 })
	s.film.hold(10)
	s.film.expectFiring(t, "PodfenceNotEnforcing", 10)
}

// TestPolicyRefused: a namespace's policies take more than its budget.
func TestPolicyRefused(t *testing.T) {
	s := newSite(t, 10, "--namespace-budget", "1000")
	rules := ""
	for i := range 20 {
		rules += fmt.Sprintf("  - {from: [{ipBlock: {cidr: 203.0.113.%d/32}}], ports: [{port: %d}]}\n", i, 1000+i)
	}
	s.write("large.yaml", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: large, namespace: shop}\nspec:\n  podSelector: {}\n  ingress:\n"+rules)
	s.shootUntil("the policy is over its budget", func() bool { return s.film.of("podfence_policies_over_budget") == 1 })
	s.film.hold(5)
	s.film.expectFiring(t, "PodfencePolicyRefused", 10)
}

// TestDropsRising: a pod sends what another's policy denies, again and again.
func TestDropsRising(t *testing.T) {
	s := newSite(t, 60)
	const inFrame = 300 // packets
	conn, err := s.lab.Host("shop/client").Dial(t.Context(), policy.UDP, netip.MustParseAddrPort("10.244.1.7:53"))
	check.NoError(t, err)
	defer conn.Close()
	for range 25 {
		for range inFrame {
			_, err := conn.Write([]byte("denied"))
			check.NoError(t, err)
		}
		time.Sleep(time.Second)
		s.shoot()
	}
	if denied := s.film.of("podfence_drop_total", `reason="default-deny"`, `direction="ingress"`); denied < 10*inFrame {
		t.Errorf("%v packets were denied", denied)
	}
	s.film.expectFiring(t, "PodfenceDropsRising", 60)
}

// TestConntrackNearlyFull: somebody on the node begins very many connections.
func TestConntrackNearlyFull(t *testing.T) {
	s := newSite(t, 10)
	most := s.film.of("podfence_conntrack_max")
	if most == 0 || most > 1<<20 {
		t.Fatalf("connection tracking has room for %v connections: none, or too many for a test", most)
	}
	check.NoError(t, s.node.Do(func() error {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(socket)
		for i := range int(0.9 * most) {
			to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(1 + i/60_000)}, Port: 1 + i%60_000}
			if err := unix.Sendto(socket, nil, 0, to); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
		return nil
	}))
	s.shoot()
	s.film.hold(10)
	s.film.expectFiring(t, "PodfenceConntrackNearlyFull", 10)
	check.NoError(t, s.node.FlushConntrack())
}

// TestAgentsOfTwoVersions: an update has reached one of two nodes.
func TestAgentsOfTwoVersions(t *testing.T) {
	s := newSite(t, 10)
	other, err := s.lab.AddNode("node-2", netip.MustParseAddr("192.0.2.2"))
	check.NoError(t, err)
	s.write("node-2.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: node-2}\nspec: {podCIDRs: [10.244.2.0/24]}\n")
	updated := s.start(other, program(t, "v2"))
	exposition, err := updated.Exposition(t.Context())
	check.NoError(t, err)
	s.shoot()
	for series, value := range frame("node-2", parsed(t, exposition)) {
		s.film[len(s.film)-1][series] = value
	}
	s.film.hold(70)
	s.film.expectFiring(t, "PodfenceAgentsOfTwoVersions", 10)
}
