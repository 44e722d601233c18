package node_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/cni/node"
)

var (
	seed     = flag.Int64("seed", 1, "seed of the first random history of a node's network; the others follow")
	duration = flag.Duration("duration", 0, "go on with random histories for so long")
)

// slots are addresses and ranges of other nodes, of which two may change places.
const slots = 9

// far are the slots behind a router, from this one on.
const far = 6

// cluster is what a node's network is made for, in a random history.
type cluster struct {
	r     *rand.Rand
	mode  node.Mode
	there [slots]bool
	// addrs and ranges are which of the slots a node has; v6first and families how many
	// of each, and in what order.
	addrs, ranges [slots]int
	kind          [slots]int
	steps         []string
}

// damages are what others do to a node's network, where there is what they do it to.
var damages = []string{
	"route flush proto 112", "-6 route flush proto 112", "route del 10.240.2.0/24", "-6 route del fd02:2::/64",
	"route replace 10.240.1.0/24 via 172.16.0.77 dev eth0 proto 112", "-6 route replace fd02:1::/64 via fd01::77 dev eth0 proto 112",
	"route add 10.77.0.0/24 via 172.16.0.7 proto 112", "-6 route add unreachable fd77::/64 proto 112",
	"link del podfence-vxlan", "link set podfence-vxlan down", "link set podfence-vxlan mtu 1300", "link set podfence-vxlan address 02:00:00:00:00:01",
	"neigh flush dev podfence-vxlan nud permanent", "neigh replace 10.77.0.1 lladdr 02:00:00:00:00:01 nud permanent dev podfence-vxlan",
	"addr flush dev podfence-vxlan", "addr add 10.77.0.1/32 dev podfence-vxlan",
	"rule del iif podfence0 lookup 28774", "-6 rule del iif podfence0 lookup 28774", "rule add iif podfence0 lookup 28774 proto 112 pref 5",
	"link del podfence0", "link set podfence0 down", "addr flush dev podfence0",
	"route flush dev podfence0", "neigh flush dev podfence0 nud permanent",
	"neigh replace 10.240.1.1 lladdr 02:00:00:00:00:01 nud permanent dev podfence-vxlan",
	"neigh replace 10.240.7.1 lladdr 02:00:00:00:00:01 nud permanent dev podfence-vxlan",
	"link set " + podLink + " down", "link set " + podLink + " nomaster", "link set " + podLink + " group 0", "link set " + podLink + " arp on",
	"bridge link set dev " + podLink + " learning on flood on", "bridge link set dev " + podLink + " hairpin off",
	"bridge link set dev " + podLink + " isolated on", "bridge fdb del " + podMAC + " dev " + podLink + " master static",
}

// TestRandomRounds goes through random histories of a node's network: other nodes come and
// go, lose their addresses and change them and their ranges with each other, the mode of
// routing changes, the agent starts anew, and others take away or change what is there.
// After each round the network is what a node would make of the cluster that has seen nothing
// else; the pod has all that it had, and what is not podfence's is left. To see one again:
//
//	go test ./cni/node -run TestRandomRounds -seed N
func TestRandomRounds(t *testing.T) {
	began, ok := time.Now(), true
	for i := int64(0); ok && (i < 3 || time.Since(began) < *duration); i++ {
		ok = t.Run(fmt.Sprint(*seed+i), func(t *testing.T) { randomRounds(t, *seed+i) })
	}
}

func randomRounds(t *testing.T, seed int64) {
	c := &cluster{r: rand.New(rand.NewSource(seed))}
	for i := range slots {
		c.addrs[i], c.ranges[i], c.kind[i] = i, i, c.r.Intn(4)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, after these steps:\n%s", seed, strings.Join(c.steps, "\n"))
		}
	})
	p := lone(t)
	p.open(node.Options{})
	p.reconcile()
	p.plug()
	p.ip("link set " + podLink + " master podfence0")
	p.connected()
	p.ip("route add 10.99.0.0/24 dev eth0 proto 99", "rule add from 10.99.0.1 lookup 99 proto 99")
	p.reconcile()
	g := NewWithT(t)
	g.Eventually(p.reachable, "30s").Should(Succeed())
	pod := p.podSide()
	for range 8 {
		c.step(p)
		lost := c.lose()
		if lost >= 0 {
			c.loseAddrs(t, p, lost)
		}
		if _, err := p.net.Reconcile(p.Node, c.nodes(-1), p.pods); err != nil {
			t.Fatalf("the round fails: %v", err)
		}
		if again, err := p.net.Reconcile(p.Node, c.nodes(-1), p.pods); len(again) > 0 || err != nil {
			t.Fatalf("the next round does %v, %v", again, err)
		}
		fresh := lone(t)
		fresh.open(node.Options{Mode: c.mode})
		fresh.reconcile(c.nodes(-1)...)
		if diff := cmp.Diff(fresh.towardsNodes(), p.towardsNodes()); diff != "" {
			t.Fatalf("it is not what a new node makes of it (-new +this):\n%s", diff)
		}
		// The kernel itself takes a moment to say that a link is up.
		g.Eventually(p.podSide, "30s").Should(Equal(pod), "the pod has not what it had")
		if p.ip("route show 10.99.0.0/24") == "" || !strings.Contains(p.ip("rule"), "lookup 99") {
			t.Fatal("what is another's was taken away")
		}
	}
}

// lone is a node with a link, a router on it, and nobody else there.
func lone(t *testing.T) *peer {
	p := newPeer(t, 0, "172.16.255.254", "fd01::ff")
	p.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}
	p.ip("link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up",
		"addr add 172.16.255.254/16 dev eth0", "addr add fd01::ff/64 dev eth0 nodad",
		"route add default via 172.16.255.1", "-6 route add default via fd01::fe")
	return p
}

// towardsNodes is what a node has for other nodes, line by line.
func (p *peer) towardsNodes() (lines []string) {
	p.t.Helper()
	mtu, err := p.net.MTU()
	for line := range strings.Lines(fmt.Sprintf("%s\nMTU %d %v", p.state(), mtu, err)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.Contains(line, "dev podfence0") && !strings.Contains(line, "lookup 99") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// nodes are the other nodes, as the agent is told of them; that which is lost has no addresses.
func (c *cluster) nodes(lost int) (nodes []node.Node) {
	for i, there := range c.there {
		if !there {
			continue
		}
		v4, v6 := fmt.Sprintf("172.16.0.%d", c.addrs[i]+1), fmt.Sprintf("fd01::%d", c.addrs[i]+1)
		if c.addrs[i] >= far {
			v4, v6 = fmt.Sprintf("172.30.0.%d", c.addrs[i]+1), fmt.Sprintf("fd03::%d", c.addrs[i]+1)
		}
		n := node.Node{
			Name: fmt.Sprint("other", i), Addrs: []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)},
			PodCIDRs: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.240.%d.0/24", c.ranges[i])), netip.MustParsePrefix(fmt.Sprintf("fd02:%d::/64", c.ranges[i])),
			},
		}
		switch c.kind[i] {
		case 1:
			n.PodCIDRs = n.PodCIDRs[:1]
		case 2:
			n.PodCIDRs = n.PodCIDRs[1:]
		case 3:
			n.Addrs[0], n.Addrs[1] = n.Addrs[1], n.Addrs[0]
		}
		if i == lost {
			n.Addrs = nil
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// step has something happen, mostly several things.
func (c *cluster) step(p *peer) {
	p.t.Helper()
	for range 1 + c.r.Intn(4) {
		i, j := c.r.Intn(slots), c.r.Intn(slots)
		switch c.r.Intn(7) {
		case 0, 1:
			c.there[i] = !c.there[i]
			c.say("node other%d is there: %t", i, c.there[i])
		case 2:
			c.addrs[i], c.addrs[j] = c.addrs[j], c.addrs[i]
			c.say("nodes other%d and other%d change addresses", i, j)
		case 3:
			c.ranges[i], c.ranges[j] = c.ranges[j], c.ranges[i]
			c.say("nodes other%d and other%d change ranges", i, j)
		case 4:
			c.kind[i] = c.r.Intn(4)
			c.say("node other%d is of kind %d", i, c.kind[i])
		default:
			words := strings.Fields(damages[c.r.Intn(len(damages))])
			if words[0] != "bridge" {
				words = append([]string{"ip"}, words...)
			}
			_, err := p.command(words...)
			c.say("somebody: %s (%t)", strings.Join(words, " "), err == nil)
		}
	}
	if c.r.Intn(3) == 0 {
		c.mode = []node.Mode{node.Auto, node.VXLAN}[c.r.Intn(2)]
		c.say("the agent starts anew, mode %s", c.mode)
		p.open(node.Options{Mode: c.mode})
	}
}

func (c *cluster) say(format string, args ...any) {
	c.steps = append(c.steps, fmt.Sprintf(format, args...))
}

// lose is a node that has lost its addresses for a while; mostly there is none.
func (c *cluster) lose() int {
	if i := c.r.Intn(slots); c.there[i] && c.r.Intn(2) == 0 {
		return i
	}
	return -1
}

// loseAddrs has a node lose its addresses: what led to its pods before does so still.
func (c *cluster) loseAddrs(t *testing.T, p *peer, lost int) {
	t.Helper()
	name := fmt.Sprint("other", lost)
	c.say("node %s loses its addresses for a round", name)
	ranges := c.nodes(-1)
	routes := func() (all string) {
		for _, n := range ranges {
			for _, r := range n.PodCIDRs {
				if n.Name == name {
					family := map[bool]string{true: "-4", false: "-6"}[r.Addr().Is4()]
					all += p.ip(family+" route show "+r.String()+" proto 112") + "\n"
				}
			}
		}
		return all
	}
	before := routes()
	_, err := p.net.Reconcile(p.Node, c.nodes(lost), p.pods)
	var partial *node.PartialError
	if !errors.As(err, &partial) || partial.Nodes[name] == nil || len(partial.Nodes) != 1 || len(partial.Pods)+len(partial.Ranges) > 0 {
		t.Fatalf("node %s has no address: %v", name, err)
	}
	if after := routes(); !strings.Contains(before, "unreachable") && len(after) < len(before) {
		t.Errorf("node %s has lost its addresses, and its pods their routes:\n%s\nthen\n%s", name, before, after)
	}
}
