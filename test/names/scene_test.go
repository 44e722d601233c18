package names

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
)

var (
	connections = flag.Int("connections", 100, "how many first connections to make in each family")
	restarts    = flag.Int("restarts", 3, "how often the agent is killed, frozen and restarted")
)

var programs string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(prebuilt.Main(m, &programs))
}

// Who is there. The world has all addresses of worldRanges.
var (
	nodeAddrs     = addrs("192.0.2.1", "2001:db8:0:1::1")
	podAddrs      = addrs("10.244.1.2", "fd00:10:244:1::2")
	otherAddrs    = addrs("10.244.1.3", "fd00:10:244:1::3")
	resolverAddrs = addrs("192.0.2.53", "2001:db8:0:53::53")
	worldAddrs    = addrs("203.0.113.1", "2001:db8:f::1")
	worldRanges   = []string{"198.18.0.0/16", "2001:db8:f:1::/96"}
)

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// port is where the world listens.
const port = 443

// scene is a node with an agent, a pod that a policy with domain names is about, another pod, a resolver, and the world.
type scene struct {
	t                           *testing.T
	lab                         *lab.Lab
	node                        *lab.Node
	pod, other, resolver, world *lab.Host
	dns                         *resolver
	dir                         string
	agent                       *agent.Agent
}

// soon is how long anything may take that is to happen at once.
const soon = 30 * time.Second

func newScene(t *testing.T) *scene {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	s := &scene{t: t, dir: t.TempDir()}
	binary := filepath.Join(programs, "podfence")
	if _, err := os.Stat(binary); err != nil {
		s.must(prebuilt.Podfence(binary))
	}
	var err error
	s.lab, err = lab.New(lab.Options{Settle: 50 * time.Millisecond})
	s.must(err)
	t.Cleanup(func() { s.must(s.lab.Close()) })
	s.node, err = s.lab.AddNode("node-1", nodeAddrs...)
	s.must(err)
	s.pod, err = s.node.AddPod("web", lab.PodOptions{IPs: podAddrs})
	s.must(err)
	s.other, err = s.node.AddPod("other", lab.PodOptions{IPs: otherAddrs})
	s.must(err)
	s.resolver, err = s.node.AddExternal("resolver", resolverAddrs...)
	s.must(err)
	s.world, err = s.node.AddExternal("world", worldAddrs...)
	s.must(err)
	for i, cidr := range worldRanges {
		family := []string{"-4", "-6"}[i]
		s.run(&s.node.Host, "ip", family, "route", "add", cidr, "dev", s.world.Link, "via", worldAddrs[i].String(), "onlink")
		s.run(s.world, "ip", family, "route", "add", "local", cidr, "dev", "lo")
	}
	for _, host := range []*lab.Host{s.pod, s.world} {
		hook := "input"
		if host == s.pod {
			hook = "output"
		}
		s.run(host, "nft", fmt.Sprintf("add table inet count; add chain inet count syns { type filter hook %s priority -300; }; add rule inet count syns tcp flags & (syn | ack) == syn tcp dport %d counter", hook, port))
	}
	s.serve()
	s.dns = newResolver(t, s.resolver)
	manifests := filepath.Join(s.dir, "manifests")
	s.must(os.Mkdir(manifests, 0o755))
	s.must(os.WriteFile(filepath.Join(manifests, "cluster.yaml"), []byte(cluster), 0o600))
	s.start()
	t.Cleanup(s.stop)
	return s
}

// cluster is what the API says. The pod may ask the resolver, and reach what the names mean.
var cluster = fmt.Sprintf(`apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: %s}, {type: InternalIP, address: "%s"}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-1, containers: [{name: web, image: web}]}
status: {phase: Running, podIPs: [{ip: %s}, {ip: "%s"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: other, labels: {app: other}}
spec: {nodeName: node-1, containers: [{name: web, image: web}]}
status: {phase: Running, podIPs: [{ip: %s}, {ip: "%s"}]}
---
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{networks: ["%s/32", "%s/128"]}], protocols: [{udp: {destinationPort: {number: 53}}}, {tcp: {destinationPort: {number: 53}}}]}
  - {action: Accept, to: [{domainNames: ["*.api.example.com", "fixed.example.com"]}], protocols: [{tcp: {destinationPort: {number: %d}}}]}
  - {action: Deny, to: [{networks: ["0.0.0.0/0", "::/0"]}]}
`, nodeAddrs[0], nodeAddrs[1], podAddrs[0], podAddrs[1], otherAddrs[0], otherAddrs[1], resolverAddrs[0], resolverAddrs[1], port)

func (s *scene) must(err error) {
	s.t.Helper()
	check.NoError(s.t, err)
}

// run runs a program in a host.
func (s *scene) run(h *lab.Host, name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(h, name, args...)
	s.must(err)
	return out
}

// try runs a program in a host, which may fail, and is killed if it does not end.
func (s *scene) try(h *lab.Host, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	var out []byte
	err := h.Do(func() (err error) {
		if out, err = exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
			err = fmt.Errorf("%s %v: %w: %s", name, args, errors.Join(err, ctx.Err()), out)
		}
		return err
	})
	return string(out), err
}

// syns is how many SYNs the pod has sent, or the world has seen.
func (s *scene) syns(h *lab.Host) (n int) {
	s.t.Helper()
	text := s.run(h, "nft", "list", "table", "inet", "count")
	at := strings.Index(text, "counter packets ")
	if _, err := fmt.Sscanf(text[max(at, 0):], "counter packets %d", &n); err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
	return n
}

// serve has the world echo on all of its addresses.
func (s *scene) serve() {
	s.t.Helper()
	var listeners []net.Listener
	s.must(s.world.Do(func() error {
		for _, at := range []string{"0.0.0.0", "[::]"} {
			l, err := net.Listen(map[bool]string{true: "tcp4", false: "tcp6"}[at == "0.0.0.0"], fmt.Sprintf("%s:%d", at, port))
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		return nil
	}))
	for _, l := range listeners {
		s.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					buffer := make([]byte, 64)
					for {
						n, err := conn.Read(buffer)
						if err != nil {
							return
						}
						_, _ = conn.Write(buffer[:n])
					}
				}()
			}
		}()
	}
}

// start starts the agent, and waits until it is ready.
func (s *scene) start() {
	s.t.Helper()
	var err error
	s.agent, err = agent.Start(agent.Options{Binary: filepath.Join(programs, "podfence"), Node: s.node, Manifests: filepath.Join(s.dir, "manifests"), Args: []string{
		"--metrics-address", "127.0.0.1:9478", "--hubble-address", "0", "--dns-min-ttl", "2s", "--dns-server", resolverAddrs[0].String() + "," + resolverAddrs[1].String(),
	}})
	s.must(err)
	s.eventually("the agent is ready", func() error {
		if !s.agent.Ready(s.t.Context()) {
			return errors.New(s.agent.Log())
		}
		return nil
	})
	s.eventually("replies are held", func() error {
		// Of one set alone: to list tables, nft reads all that there is, and all of it again if the kernel was told
		// something meanwhile. While names are asked for, that has no end.
		alive, err := s.try(&s.node.Host, "nft", "list", "set", "inet", "podfence-names", "alive")
		if err != nil || !strings.Contains(alive, "expires") {
			return errors.Join(err, errors.New(s.agent.Log()))
		}
		return nil
	})
}

func (s *scene) stop() {
	if s.agent != nil {
		s.must(s.agent.Stop())
		s.agent = nil
	}
}

func (s *scene) eventually(what string, holds func() error) {
	s.t.Helper()
	check.Eventually(s.t, soon, what, holds)
}

// ask asks the resolver, as a pod's resolver library does: again after a while, if there is no answer.
func (s *scene) ask(h *lab.Host, at netip.Addr, name string, kind dnsmessage.Type, timeout time.Duration, attempts int) (netip.Addr, error) {
	var errs []error
	for range attempts {
		addr, err := s.askOnce(h, at, name, kind, timeout)
		if err == nil {
			return addr, nil
		}
		errs = append(errs, err)
	}
	return netip.Addr{}, errors.Join(errs...)
}

func (s *scene) askOnce(h *lab.Host, at netip.Addr, name string, kind dnsmessage.Type, timeout time.Duration) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	conn, err := h.Dial(ctx, policy.UDP, netip.AddrPortFrom(at, 53))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return exchange(conn, name, kind, time.Now().Add(timeout))
}

// exchange asks over a connection to a resolver.
func exchange(conn net.Conn, name string, kind dnsmessage.Type, deadline time.Time) (netip.Addr, error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return netip.Addr{}, err
	}
	id := uint16(time.Now().UnixNano())
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET}}}
	packed, err := query.Pack()
	if err != nil {
		return netip.Addr{}, err
	}
	if _, err := conn.Write(packed); err != nil {
		return netip.Addr{}, err
	}
	buffer := make([]byte, 4096)
	n, err := conn.Read(buffer)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: %w", name, err)
	}
	var reply dnsmessage.Message
	if err := reply.Unpack(buffer[:n]); err != nil {
		return netip.Addr{}, err
	}
	for _, answer := range reply.Answers {
		switch body := answer.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(body.A), nil
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(body.AAAA), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address: %v", name, reply)
}

// connect opens a connection from a pod, before a SYN is sent again: after a second.
func (s *scene) connect(h *lab.Host, to netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 900*time.Millisecond)
	defer cancel()
	return h.Dial(ctx, policy.TCP, netip.AddrPortFrom(to, port))
}

// writeManifest puts a file into the folder that the agent enforces.
func (s *scene) writeManifest(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	s.must(os.WriteFile(path, []byte(text), 0o600))
	s.must(os.Rename(path, filepath.Join(s.dir, "manifests", name)))
}

// counted are the agent's metrics about DNS.
func (s *scene) counted() string {
	all, err := s.agent.Metrics(s.t.Context())
	var lines []string
	for name, value := range all {
		if strings.HasPrefix(name, "podfence_dns_") && value != 0 {
			lines = append(lines, fmt.Sprintf("%s %v", name, value))
		}
	}
	slices.Sort(lines)
	return fmt.Sprint(strings.Join(lines, "\n"), err)
}
