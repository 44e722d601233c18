package paths_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/lab"
)

// mode is who connects the pods, and how the agent learns of them.
type mode struct {
	name string
	cni  string // the agent's --cni
	// by is the reference plugin that connects the pods; empty: podfence's own.
	by string
	// vlan is the VLAN that the plugin bridge has the pods in; 0: it filters no VLANs.
	vlan int
	// beside: the node's address is not the bridge's own, but that of a link that leads
	// into it.
	beside bool
	// check is the agent's --source-check; empty: auto.
	check string
	// fragments: the node has the memory for fragments that large datagrams need.
	fragments bool
}

var modes = []mode{
	{name: "bridge", cni: "bridge"},
	{name: "chained-bridge", cni: "chained", by: "bridge"}, {name: "chained-routed", cni: "chained", by: "ptp"},
	{name: "policy-only-bridge", cni: "none", by: "bridge"}, {name: "policy-only-routed", cni: "none", by: "ptp"},
	{name: "chained-beside", cni: "chained", by: "bridge", beside: true},
	{name: "policy-only-beside", cni: "none", by: "bridge", beside: true},
	{name: "chained-vlan", cni: "chained", by: "bridge", vlan: 5},
	{name: "policy-only-vlan", cni: "none", by: "bridge", vlan: 5},
}

// The connections are podfence's own bridge, another's, and routed veths.
func (m mode) own() bool     { return m.by == "" }
func (m mode) foreign() bool { return m.by == "bridge" }
func (m mode) routed() bool  { return m.by == "ptp" }

// device is the node's link to the bridge, empty if there is none.
func (m mode) device() string {
	switch {
	case m.beside:
		return besideBridge
	case m.vlan > 0: // as the plugin calls it
		return fmt.Sprintf("%s.%d", foreignBridge, m.vlan)
	}
	return map[string]string{"": node.DefaultBridge, "bridge": foreignBridge}[m.by]
}

const foreignBridge, besideBridge = "cni0", "pods0"

// families are the addresses that there are in a scene.
type families struct {
	name   string
	v4, v6 bool
}

var (
	dual   = families{"dual", true, true}
	single = []families{{"ipv4", true, false}, {"ipv6", false, true}}
)

// some are those of the addresses that are of the scene's families.
func (f families) some(addrs ...string) (all []netip.Addr) {
	for _, a := range addrs {
		if addr := netip.MustParseAddr(a); addr.Is4() && f.v4 || addr.Is6() && f.v6 {
			all = append(all, addr)
		}
	}
	return all
}

// actorID is who sends and receives.
type actorID uint8

const (
	isolated actorID = iota
	neighbour
	theNode
	outside
	wire // on a port of a foreign bridge that is no pod's
	nobody
)

var actorNames = [...]string{"isolated pod", "neighbour", "node", "host outside", "host on the bridge's wire", "nobody"}

func (a actorID) String() string { return actorNames[a] }

// actor is a host and the node's side of its link.
type actor struct {
	host   *lab.Host
	mac    net.HardwareAddr
	addr   map[bool]netip.Addr // by: is IPv6
	eth0   int
	device netlink.Link // the bridge, or the node's end of the pair
}

// scene is a node with its pods and others, connected in one way.
type scene struct {
	t        *testing.T
	mode     mode
	families families
	lab      *lab.Lab
	node     *lab.Node
	agent    *agent.Agent
	dir      string
	actors   [nobody]*actor
}

// soon is how long anything may take that is to happen at once.
const soon = time.Minute

func newScene(t *testing.T, m mode, f families) *scene {
	t.Helper()
	s := &scene{t: t, mode: m, families: f}
	var err error
	s.dir, err = os.MkdirTemp("", "paths-") // a short name, for the socket's sake
	s.must(err)
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	s.lab, err = lab.New(lab.Options{Settle: 50 * time.Millisecond})
	s.must(err)
	t.Cleanup(func() { s.must(s.lab.Close()) })
	s.node, err = s.lab.AddNode("node-1", f.some("192.0.2.1", "2001:db8:0:1::1")...)
	s.must(err)
	s.must(s.node.Do(prepareNode))
	if m.fragments {
		s.moreFragments()
	}
	s.actors[theNode] = &actor{host: &s.node.Host, addr: byFamily(f.some("10.244.1.1", "fd00:10:244:1::1"))}
	s.external(outside, "outside", f.some("192.0.2.2", "2001:db8:0:1::2")...)
	if m.beside {
		s.must(s.node.Do(s.bridgeBeside))
	}
	s.start()
	s.connect(isolated, "shop", "closed")
	s.connect(neighbour, "hall", "open")
	if m.foreign() {
		s.external(wire, "wire", f.some("198.51.100.7", "2001:db8:0:7::7")...)
		s.must(s.node.Do(s.bridgeWire))
	}
	s.settle()
	s.quieten()
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

// present are the actors of the scene.
func (s *scene) present() (all []actorID) {
	for id, a := range s.actors {
		if a != nil {
			all = append(all, actorID(id))
		}
	}
	return all
}

// nodeLinkLocal4 is an address of the node as DNS caches and the like have.
const nodeLinkLocal4 = "169.254.20.10"

func prepareNode() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(nodeLinkLocal4 + "/32")
	if err != nil {
		return err
	}
	// The InternalIPs are on the loopback link, whose MTU would be the pods'.
	return errors.Join(netlink.LinkSetMTU(lo, 1500), netlink.AddrAdd(lo, address))
}

func byFamily(addrs []netip.Addr) map[bool]netip.Addr {
	all := map[bool]netip.Addr{}
	for _, a := range addrs {
		all[a.Is6()] = a
	}
	return all
}

func (s *scene) external(id actorID, name string, addrs ...netip.Addr) {
	s.t.Helper()
	h, err := s.node.AddExternal(name, addrs...)
	s.must(err)
	s.actors[id] = s.newActor(h, "")
}

// newActor finds a host's link, and the node's side of it.
func (s *scene) newActor(h *lab.Host, bridge string) *actor {
	s.t.Helper()
	a := &actor{host: h, addr: byFamily(h.IPs)}
	other := 0
	s.must(h.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a.eth0, a.mac, other = eth0.Attrs().Index, eth0.Attrs().HardwareAddr, eth0.Attrs().ParentIndex
		return nil
	}))
	s.must(s.node.Do(func() (err error) {
		if bridge != "" {
			a.device, err = netlink.LinkByName(bridge)
		} else {
			a.device, err = netlink.LinkByIndex(other)
		}
		return err
	}))
	return a
}

// bridgeBeside makes the bridge, with the node's address on a pair of links into it, which
// is what the plugin bridge does about a VLAN.
func (s *scene) bridgeBeside() error {
	commands := [][]string{
		{"link", "add", foreignBridge, "up", "type", "bridge"},
		{"link", "add", besideBridge, "up", "type", "veth", "peer", "name", "beside"},
		{"link", "set", "beside", "up", "master", foreignBridge},
	}
	for _, a := range s.actors[theNode].addr {
		bits := map[bool]string{false: "/24", true: "/64"}[a.Is6()]
		commands = append(commands, []string{"address", "add", a.String() + bits, "dev", besideBridge, "nodad"})
	}
	for _, c := range commands {
		if err := run("ip", c...); err != nil {
			return err
		}
	}
	return nil
}

// filtersVLANs says why a bridge of this kernel filters no VLANs, if it does not.
func filtersVLANs() error {
	return run("unshare", "--net", "ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1")
}

// bridgeWire makes the wire's link a port of the bridge, as an uplink can be.
func (s *scene) bridgeWire() error {
	w := s.actors[wire]
	bridge, err := netlink.LinkByName(foreignBridge)
	if err != nil {
		return err
	}
	port := w.device
	// The node reaches it by the bridge from now on.
	if err := errors.Join(netlink.LinkSetDown(port), netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port)); err != nil {
		return err
	}
	if s.mode.vlan > 0 {
		if err := run("bridge", "vlan", "add", "dev", port.Attrs().Name, "vid", fmt.Sprint(s.mode.vlan), "pvid", "untagged"); err != nil {
			return err
		}
	}
	if w.device, err = netlink.LinkByName(s.mode.device()); err != nil {
		return err
	}
	for _, addr := range w.addr {
		route := &netlink.Route{LinkIndex: w.device.Attrs().Index, Dst: network(addr)}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", addr, err)
		}
	}
	return nil
}

func network(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// start writes what the cluster is, and runs the agent.
func (s *scene) start() {
	s.t.Helper()
	for _, dir := range []string{"manifests", "net.d", "bin"} {
		s.must(os.Mkdir(s.path(dir), 0o755))
	}
	s.write("cluster.yaml", s.clusterYAML())
	s.write("pods.yaml", s.podsYAML())
	var err error
	s.agent, err = agent.Start(agent.Options{Binary: program("podfence-agent"), Node: s.node, Manifests: s.path("manifests"), Args: []string{
		"--source-check", cmp.Or(s.mode.check, "auto"),
		"--cni", s.mode.cni, "--cni-socket", s.path("agent.sock"), "--cni-state", s.path("attachments"), "--cni-conf-dir", s.path("net.d"),
		"--cni-bin-dir", s.path("bin"), "--cni-data-dir", s.path("leases"), "--cni-plugin", program("podfence"), "--metrics-address", "0",
	}})
	s.must(err)
	s.t.Cleanup(s.stop)
	s.eventually("the agent", func() error {
		if !s.agent.Ready(s.t.Context()) {
			return errors.New(s.agent.Log())
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

// open takes podfence's rules away: what passes then is what the links let.
func (s *scene) open() {
	s.t.Helper()
	s.stop()
	s.must(s.node.Do(func() error {
		err := run("nft", "delete", "table", "inet", ruleset.TableName)
		if s.mode.cni == "bridge" {
			err = errors.Join(err, run("nft", "delete", "table", "bridge", ruleset.TableName))
		}
		return err
	}))
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return nil
}

// write replaces a manifest whole: the agent reads it at any time.
func (s *scene) write(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(s.path("new"), []byte(text), 0o600))
	s.must(os.Rename(s.path("new"), filepath.Join(s.path("manifests"), name)))
}

func (s *scene) eventually(what string, holds func() error) {
	s.t.Helper()
	deadline := time.Now().Add(soon)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *scene) clusterYAML() string {
	var b strings.Builder
	for i := 1; i <= 2; i++ {
		ranges := quoted(s.families.some(fmt.Sprintf("10.244.%d.0", i), fmt.Sprintf("fd00:10:244:%d::", i)), map[bool]string{false: "/24", true: "/64"})
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-%d}\nspec: {podCIDRs: [%s]}\nstatus: {addresses: [", i, ranges)
		for _, a := range s.families.some(fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8:0:1::%d", i)) {
			fmt.Fprintf(&b, "{type: InternalIP, address: %q},", a)
		}
		b.WriteString("]}\n")
	}
	return b.String() + `---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: hall}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`
}

func quoted(addrs []netip.Addr, suffix map[bool]string) string {
	var all []string
	for _, a := range addrs {
		all = append(all, fmt.Sprintf("%q", a.String()+suffix[a.Is6()]))
	}
	return strings.Join(all, ", ")
}

// podsYAML are the pods, with the addresses of those that have some.
func (s *scene) podsYAML() string {
	var b strings.Builder
	for id, key := range map[actorID]policy.Key{isolated: {Namespace: "shop", Name: "closed"}, neighbour: {Namespace: "hall", Name: "open"}} {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: %s, name: %s, uid: uid-%s}\n", key.Namespace, key.Name, key.Name)
		b.WriteString("spec: {nodeName: node-1, containers: [{name: main, image: main}]}\n")
		a := s.actors[id]
		if a == nil {
			b.WriteString("status: {phase: Pending}\n")
			continue
		}
		fmt.Fprintf(&b, "status: {phase: Running, podIP: %q, podIPs: [", a.host.IPs[0])
		for _, ip := range a.host.IPs {
			fmt.Fprintf(&b, "{ip: %q},", ip)
		}
		b.WriteString("]}\n")
	}
	return b.String()
}

// conflist is what the container runtime would call.
func (s *scene) conflist() (*libcni.NetworkConfigList, error) {
	if s.mode.own() {
		data, err := os.ReadFile(filepath.Join(s.path("net.d"), install.ConflistName))
		if err != nil {
			return nil, err
		}
		return libcni.ConfListFromBytes(data)
	}
	var ranges, routes []any
	for _, a := range s.families.some("10.244.1.0", "fd00:10:244:1::") {
		bits, all := "/24", "0.0.0.0/0"
		if a.Is6() {
			bits, all = "/64", "::/0"
		}
		ranges = append(ranges, []any{map[string]any{"subnet": a.String() + bits}})
		routes = append(routes, map[string]any{"dst": all})
	}
	ipam := map[string]any{"type": "host-local", "dataDir": s.path("ipam"), "ranges": ranges, "routes": routes}
	plugins := []any{map[string]any{"type": s.mode.by, "bridge": foreignBridge, "isGateway": !s.mode.beside, "vlan": s.mode.vlan, "hairpinMode": true, "ipam": ipam}}
	if s.mode.cni == "chained" {
		plugins = append(plugins, map[string]any{"type": "podfence", "mode": "chained", "socket": s.path("agent.sock")})
	}
	data, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(data)
}

// connect has the plugins connect a pod, and the API show its addresses.
func (s *scene) connect(id actorID, namespace, name string) {
	s.t.Helper()
	var list *libcni.NetworkConfigList
	s.eventually("a CNI configuration", func() (err error) { list, err = s.conflist(); return err })
	h, err := s.node.AddSandbox("c-" + name)
	s.must(err)
	cni := libcni.NewCNIConfigWithCacheDir([]string{s.path("bin"), programs}, s.path("cache"), nil)
	var result types.Result
	s.must(s.node.Do(func() (err error) {
		result, err = cni.AddNetworkList(s.t.Context(), list, &libcni.RuntimeConf{
			ContainerID: h.Name, NetNS: h.NetNSPath(), IfName: "eth0",
			Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", namespace}, {"K8S_POD_NAME", name}, {"K8S_POD_UID", "uid-" + name}},
		})
		return err
	}))
	made, err := current.NewResultFromResult(result)
	s.must(err)
	var ips []netip.Addr
	for _, ip := range made.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		ips = append(ips, addr.Unmap())
	}
	h.Connected(ips)
	s.actors[id] = s.newActor(h, s.mode.device())
	s.write("pods.yaml", s.podsYAML())
}

// settle waits until the policies hold, for all that the API shows.
func (s *scene) settle() {
	s.t.Helper()
	var probes []lab.Probe
	for _, from := range []actorID{isolated, neighbour} {
		for _, dst := range s.actors[outside].host.IPs {
			probes = append(probes, lab.Probe{
				From: s.actors[from].host, To: s.actors[outside].host, Expect: from == neighbour,
				Packet: policy.Packet{Dst: dst, Protocol: policy.UDP, DstPort: 1000},
			})
		}
	}
	s.eventually("policy", func() error {
		results, err := s.lab.Probe(s.t.Context(), probes)
		for _, r := range results {
			if !r.AsExpected() {
				err = errors.Join(err, errors.New(r.String()))
			}
		}
		return err
	})
	// The agent judges flows once more half a second after a commit. It would cut some of
	// those that frames begin that must begin none.
	time.Sleep(time.Second)
	s.must(s.node.FlushConntrack())
}

// quieten sees to it that nobody answers, and that nobody has to ask where a frame goes:
// all that moves are the frames that are sent.
func (s *scene) quieten() {
	s.t.Helper()
	for _, id := range s.present() {
		if id == theNode {
			continue
		}
		a := s.actors[id]
		s.must(a.host.Do(func() error { return nft(deaf) }))
		s.must(s.node.Do(func() error { return s.introduce(a) }))
	}
	s.must(s.node.Do(func() error {
		if s.mode.foreign() {
			// What is multicast goes to all ports, whatever queries and reports
			// of the frames before have taught the bridge.
			if err := run("ip", "link", "set", foreignBridge, "type", "bridge", "mcast_snooping", "0"); err != nil {
				return err
			}
		}
		return nft(reporting)
	}))
}

// introduce tells the node an actor's hardware address, for good.
func (s *scene) introduce(a *actor) error {
	for _, addr := range a.addr {
		family := netlink.FAMILY_V4
		if addr.Is6() {
			family = netlink.FAMILY_V6
		}
		entry := &netlink.Neigh{LinkIndex: a.device.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: a.mac}
		if err := netlink.NeighSet(entry); err != nil {
			return err
		}
	}
	return nil
}

func nft(text string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// deaf are the rules of those who receive by packet sockets, which come before.
const deaf = `
table inet deaf {
	chain nothing { type filter hook prerouting priority raw; policy drop; }
}
table arp deaf {
	chain nothing { type filter hook input priority 0; policy drop; }
}
`

// reporting are the node's rules that come last: they say what has come so far, and let
// nothing be answered.
var reporting = fmt.Sprintf(`
table inet reporting {
	chain input {
		type filter hook input priority 1000
		log group %[1]d snaplen 512
		drop
	}
	chain output { type filter hook output priority 1000; policy drop; }
}
table arp reporting {
	chain input {
		type filter hook input priority 1000
		log group %[1]d snaplen 512
		drop
	}
	chain output { type filter hook output priority 1000; policy drop; }
}
`, logGroup)
