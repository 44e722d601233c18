package node_test

import (
	"crypto/sha256"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/cni/node"
)

// linkMAC is the MAC that the CNI plugin gives the node's end of a pod's link.
func linkMAC(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("link " + name))
	return append(net.HardwareAddr{sum[0]&^1 | 2}, sum[1:6]...)
}

const podLink = "pfabcdefgh"

// bridgeMAC is the MAC of the bridge podfence0.
var bridgeMAC = func() net.HardwareAddr {
	sum := sha256.Sum256([]byte("bridge podfence0"))
	return append(net.HardwareAddr{sum[0]&^1 | 2}, sum[1:6]...)
}()

// plug gives the node a pod's link as an ADD has it before the agent answers, and tells the
// node of the pod.
func (p *peer) plug() node.Pod {
	p.t.Helper()
	p.pod = newSpace(p.t)
	p.ip(fmt.Sprintf("link add %s address %s group 28774 type veth peer name eth0 address %s netns %s", podLink, linkMAC(podLink), podMAC, p.pod.path()))
	p.pod.ip("link set eth0 up")
	for i, a := range p.podIPs() {
		gateway, nodad := p.PodCIDRs[i].Addr().Next(), ""
		if a.Is6() {
			nodad = " nodad"
		}
		p.pod.ip(fmt.Sprintf("addr add %s/%d dev eth0%s", a, a.BitLen(), nodad), "route add default via "+gateway.String()+" dev eth0 onlink",
			fmt.Sprintf("neigh add %s lladdr %s nud permanent dev eth0", gateway, bridgeMAC))
	}
	mac, _ := net.ParseMAC(podMAC)
	pod := node.Pod{Name: "shop/web", Link: podLink, MAC: mac, Addrs: p.podIPs()}
	p.pods = append(p.pods, pod)
	return pod
}

// connected has the pod's link be what an ADD has left of it, but for ports, routes and
// neighbours: up once, and down.
func (p *peer) connected() {
	p.t.Helper()
	p.ip("link set "+podLink+" arp off", "link set "+podLink+" up", "link set "+podLink+" down")
}

// changing are timers, indices that are new with the device, and what routes say of a link for up to a second
// after it has come up (linkwatch).
var changing = regexp.MustCompile(`_timer +\S+| linkdown|^[0-9]+: |[a-z_]+_id \S+|designated_\w+ \S+`)

// podSide is all that a node has for its pods.
func (p *peer) podSide() string {
	p.t.Helper()
	entries, err := p.command("bridge", "fdb", "show", "br", "podfence0", "brport", podLink)
	if err != nil {
		p.t.Fatal(err)
	}
	var behind []string
	for entry := range strings.Lines(entries) {
		// What learning leaves is no setting, nor are the multicast groups that the kernel itself has the link in, "self":
		// that of its own IPv6 address is among them if ARP was on for a moment soon after it came up.
		if strings.Contains(entry, "master podfence0") && (strings.Contains(entry, "static") || strings.Contains(entry, "permanent")) {
			behind = append(behind, entry)
		}
	}
	lines := strings.Split(strings.Join([]string{
		p.ip("-4 route show dev podfence0 proto 112"), p.ip("-6 route show dev podfence0 proto 112"),
		p.ip("-4 neigh show dev podfence0 nud permanent"), p.ip("-6 neigh show dev podfence0 nud permanent"),
		p.ip("-d link show " + podLink), p.ip("addr show dev podfence0"), strings.Join(behind, ""),
	}, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(changing.ReplaceAllString(line, ""))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// reachable says whether the node and its pod have each other, both ways.
func (p *peer) reachable() error {
	for _, a := range p.podIPs() {
		if err := tcp(p.pod, p.space, a, p.addrLike(a)); err != nil {
			return err
		}
	}
	return nil
}

func TestPodsComeBack(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	p := shared(t, 1, 1500)[0]
	p.open(node.Options{})
	p.reconcile()
	p.plug()
	// The agent has not answered yet: the link stays down and outside.
	p.reconcile()
	g.Expect(p.ip("link show " + podLink)).NotTo(Or(ContainSubstring("master"), ContainSubstring("state UP")))
	// It has, and the plugin is at work: what is missing is no damage.
	p.ip("link set " + podLink + " master podfence0")
	g.Expect(p.reconcile()).To(BeZero())
	p.ip("link set " + podLink + " arp off")
	g.Expect(p.reconcile()).To(BeZero())
	g.Expect(p.ip("link show " + podLink)).NotTo(ContainSubstring(",UP"))
	// It has done its work, and somebody has undone it; in whichever order it is found
	// missing, and by an agent that has not seen it whole.
	p.ip("link set " + podLink + " nomaster")
	p.connected()
	p.open(node.Options{})
	g.Expect(p.reconcile()).To(Equal(8))
	g.Eventually(p.reachable, "30s").Should(Succeed())
	p.reconcile()
	was := p.podSide()
	g.Expect(was).To(And(ContainSubstring("10.244.1.2"), ContainSubstring("hairpin on"), ContainSubstring("learning off")))
	for _, damage := range []string{
		"ip link set podfence0 down", "ip link set podfence0 down; ip link set podfence0 up",
		"ip route flush dev podfence0", "ip -6 route flush dev podfence0 proto 112",
		"ip neigh flush dev podfence0 nud permanent", "ip addr flush dev podfence0",
		"ip route change 10.244.1.2/32 dev eth0 proto 112", "ip neigh replace 10.244.1.2 lladdr 02:00:00:00:00:01 nud permanent dev podfence0",
		"ip link set " + podLink + " down", "ip link set " + podLink + " nomaster", "ip link set " + podLink + " group 0",
		"ip link set " + podLink + " arp on",
		"ip link set " + podLink + " down; ip link set " + podLink + " up; ip link set " + podLink + " arp on; sleep 1.5",
		"bridge link set dev " + podLink + " learning on flood on", "bridge link set dev " + podLink + " hairpin off",
		"bridge link set dev " + podLink + " isolated on", "bridge fdb del " + podMAC + " dev " + podLink + " master static",
		"ip link del podfence0", "ip link set podfence0 type bridge vlan_filtering 1", "ip link set podfence0 type bridge mcast_snooping 1",
		"ip link set podfence0 down; ip link set " + podLink + " nomaster; ip link set " + podLink + " down",
	} {
		done := true
		for _, one := range strings.Split(damage, "; ") {
			_, err := p.command(strings.Fields(one)...)
			switch {
			case err != nil && strings.Contains(err.Error(), "not supported"):
				t.Logf("not tried, as this kernel can't: %v", err)
				done = false
			case err != nil:
				t.Fatal(err)
			}
		}
		if done && p.reconcile() == 0 {
			t.Errorf("%s: no change", damage)
		}
		g.Eventually(p.podSide, "30s").Should(Equal(was), damage)
		g.Eventually(p.reachable, "30s").Should(Succeed(), damage)
	}
}

// TestPodsOfOthers: what podfence did not make is left, and said; it keeps no other pod from
// being seen to.
func TestPodsOfOthers(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	p := shared(t, 1, 1500)[0]
	p.open(node.Options{})
	p.reconcile()
	pod := p.plug()
	p.connected()
	p.ip("link add pfothers type veth peer name other", "link set pfothers arp off",
		"route add 10.244.1.2/32 dev eth0 proto static", "link add pfwaiting address "+linkMAC("pfwaiting").String()+" type veth peer name other2")
	// A port that nobody has told of: the guard's table closes it by its group.
	p.ip("link add pfuntold address " + linkMAC("pfuntold").String() + " type veth peer name other3")
	pods := []node.Pod{
		pod,
		{Name: "shop/gone", Link: "pfgone", MAC: pod.MAC, Addrs: p.podIPs()[:1]},
		{Name: "shop/other", Link: "pfothers", MAC: pod.MAC},
		{Name: "shop/waiting", Link: "pfwaiting", MAC: pod.MAC},
	}
	_, err := p.net.Reconcile(p.Node, nil, pods)
	var partial *node.PartialError
	g.Expect(err).To(And(BeAssignableToTypeOf(partial), MatchError(And(
		ContainSubstring("pod shop/web: route to 10.244.1.2: there is one that podfence did not make, 10.244.1.2/32 dev eth0"),
		ContainSubstring("pod shop/other: link pfothers is a veth with MAC"), Not(ContainSubstring("shop/gone")), Not(ContainSubstring("waiting"))))))
	g.Expect(p.ip("route show 10.244.1.2")).To(ContainSubstring("dev eth0 proto static"))
	for _, link := range []string{"pfothers", "pfwaiting"} {
		g.Expect(p.ip("link show " + link)).NotTo(Or(ContainSubstring("master"), ContainSubstring(",UP")))
	}
	for _, link := range []string{"pfwaiting", "pfuntold"} {
		g.Expect(p.ip("link show " + link)).To(ContainSubstring("group 28774"))
	}
	g.Expect(p.ip("link show pfothers")).To(ContainSubstring("group default"))
	p.ip("link set pfuntold group 0")
	g.Expect(p.net.GuardPorts()).To(Succeed())
	g.Expect(p.ip("link show pfuntold")).To(ContainSubstring("group 28774"))
	changes, _ := p.net.Reconcile(p.Node, nil, pods)
	g.Expect(changes).NotTo(ContainElement(ContainSubstring("route")))
	// The rest of its pod is there.
	p.ip("route del 10.244.1.2/32 dev eth0")
	g.Expect(p.net.Reconcile(p.Node, nil, pods[:1])).NotTo(BeEmpty())
	g.Eventually(p.reachable, "30s").Should(Succeed())
}

// TestChanged: the kernel says what others do to the network, at once, and of a round that
// finds nothing to do, nothing.
func TestChanged(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	nodes := shared(t, 2, 1500)
	p := nodes[0]
	p.open(node.Options{Mode: node.VXLAN})
	p.reconcile(all(nodes)...)
	p.plug()
	p.connected()
	p.reconcile(all(nodes)...)
	// quiet rounds until nothing is told any more: what a round has done is told as well, and
	// so are links that are coming up.
	quiet := func() bool {
		select {
		case <-p.net.Changed():
			p.reconcile(all(nodes)...)
			return false
		default:
			return true
		}
	}
	settle := func() {
		t.Helper()
		times := 0
		g.Eventually(func() int {
			if quiet() {
				times++
			} else {
				times = 0
			}
			return times
		}, "1m", "20ms").Should(BeNumerically(">", 25), "its own rounds keep it busy")
	}
	vtep := node.VTEPMAC("node2", false).String()
	for _, damage := range []string{
		"ip route del 10.244.1.2/32 dev podfence0", "ip -6 route del fd00:10:244:1::2/128 dev podfence0",
		"ip neigh del 10.244.1.2 dev podfence0", "ip neigh del fd00:10:244:1::2 dev podfence0",
		"bridge fdb del " + podMAC + " dev " + podLink + " master static", "bridge fdb del " + vtep + " dst 192.168.1.2 dev podfence-vxlan self",
		"bridge link set dev " + podLink + " learning on", "ip link set " + podLink + " nomaster", "ip link set podfence0 down",
		"ip route del 10.244.2.0/24", "ip rule del iif podfence0 lookup 28774", "ip -6 rule del iif podfence0 lookup 28774",
		"ip link del podfence-vxlan", "ip addr del 10.244.1.1/32 dev podfence0",
	} {
		settle()
		if _, err := p.command(strings.Fields(damage)...); err != nil {
			t.Fatal(err)
		}
		g.Eventually(p.net.Changed(), "30s").Should(Receive(), damage)
		if p.reconcile(all(nodes)...) == 0 {
			t.Errorf("%s: nothing was missing", damage)
		}
	}
	settle()
	p.setSysctl("net/ipv4/conf/podfence0/forwarding", "0")
	g.Eventually(p.net.Changed(), "30s").Should(Receive())
	if p.reconcile(all(nodes)...) != 1 {
		t.Error("the setting was not made again")
	}
	// Others' neighbours are none of its business. What the kernel still has to tell of something else does not come
	// at each attempt.
	attempt := 0
	g.Eventually(func() bool {
		settle()
		attempt++
		for i := range 20 {
			p.ip(fmt.Sprintf("neigh replace 192.168.1.%d lladdr 02:00:00:00:00:%02x dev eth0", 100+i, attempt))
		}
		time.Sleep(300 * time.Millisecond)
		return quiet()
	}, "1m").Should(BeTrue())
}

// TestUplinkDown: while there is no way to another node at all, nothing is put in place of
// the way that there was, and all is there again when the link is.
func TestUplinkDown(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	nodes := shared(t, 2, 1500)
	start(t, nodes, node.Options{})
	p := nodes[0]
	mtu, err := p.net.MTU()
	g.Expect(err).NotTo(HaveOccurred())
	was := p.state()
	p.ip("link set eth0 down")
	_, err = p.net.Reconcile(p.Node, all(nodes), nil)
	g.Expect(err).To(MatchError(ContainSubstring("node node2: no route to InternalIP 192.168.1.2")))
	g.Expect(p.ip("link")).NotTo(ContainSubstring("vxlan"))
	p.ip("link set eth0 up", "addr add fd00:1::1/64 dev eth0 nodad")
	g.Eventually(func() (string, error) {
		_, err := p.net.Reconcile(p.Node, all(nodes), nil)
		return p.state(), err
	}, "30s").Should(Equal(was))
	g.Expect(p.net.MTU()).To(Equal(mtu))
}
