package kernel_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset"
)

// vlan is the VLAN of tagLab's bridge in which the pod is.
const vlan = 5

// tagLab is a node with another plugin's bridge, to which br_netfilter shows the inet rules what it passes: they
// deny all of it. Its ports are those of a pod, of a wire on which frames need no tag, and, if the bridge filters
// VLANs, of a trunk on which they have one. The bridge itself is not in the pods' VLAN.
type tagLab struct {
	node             *namespace
	pod, wire, trunk *namespace
	watch            *watch
}

// The hardware addresses. None of its ports has the bridge's.
var bridgeMAC, podMAC, wireMAC, trunkMAC = mac{2, 5: 0xa0}, mac{2, 5: 1}, mac{2, 5: 2}, mac{2, 5: 3}

func newTagLab(t *testing.T, filtering bool) *tagLab {
	t.Helper()
	l := &tagLab{node: newNamespace(t), watch: &watch{arrived: map[int][]string{}}}
	l.node.sysctl("bridge/bridge-nf-call-iptables", "1")
	l.node.sysctl("bridge/bridge-nf-call-ip6tables", "1")
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: bridgeMAC[:]}}
	if filtering {
		bridge.VlanFiltering = &filtering
	}
	var cannot error
	l.node.do("bridge", func() error {
		err := netlink.LinkAdd(bridge)
		if filtering && errors.Is(err, unix.EOPNOTSUPP) {
			cannot = err
			return nil
		}
		return errors.Join(err, netlink.LinkSetUp(bridge))
	})
	if cannot != nil {
		t.Skipf("skipped: no bridge that filters VLANs can be made here, which takes CONFIG_BRIDGE_VLAN_FILTERING: %v", cannot)
	}
	port := func(name string, mac mac, tagged bool) *namespace {
		host := newNamespace(t)
		l.node.do("port "+name, func() error {
			veth := &netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: bridge.Index},
				PeerName:  "eth0", PeerNamespace: netlink.NsFd(host.fd), PeerHardwareAddr: mac[:],
			}
			fdb := &netlink.Neigh{Family: unix.AF_BRIDGE, HardwareAddr: mac[:], Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP}
			err := errors.Join(netlink.LinkAdd(veth), netlink.LinkSetUp(veth))
			if filtering {
				fdb.Vlan = vlan
				err = errors.Join(err, netlink.BridgeVlanDel(veth, 1, false, false, false, true), netlink.BridgeVlanAdd(veth, vlan, !tagged, !tagged, false, true))
			}
			fdb.LinkIndex = veth.Index
			return errors.Join(err, netlink.NeighSet(fdb))
		})
		host.do("eth0", func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(eth0)
		})
		l.watch.packets(host, "eth0", name)
		return host
	}
	l.pod, l.wire = port("pod", podMAC, false), port("wire", wireMAC, false)
	if filtering {
		l.trunk = port("trunk", trunkMAC, true)
	}
	l.watch.packets(l.node, "br0", "node")
	l.node.nft("table inet policies {\nchain forward {\ntype filter hook forward priority 0; policy drop;\n}\n}\n", "-f", "-")
	time.Sleep(200 * time.Millisecond) // until all ports forward
	return l
}

// tag puts a tag round a frame's type and what follows.
func tag(kind, vid uint16, frame []byte) []byte {
	return slices.Concat(frame[:12], binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, kind), vid), frame[12:])
}

// tags are ways to put a frame into tags.
var tags = map[string]func([]byte) []byte{
	"no tag":                func(b []byte) []byte { return b },
	"tag 0":                 func(b []byte) []byte { return tag(unix.ETH_P_8021Q, 0, b) },
	"tag 5":                 func(b []byte) []byte { return tag(unix.ETH_P_8021Q, vlan, b) },
	"tag 5 with a priority": func(b []byte) []byte { return tag(unix.ETH_P_8021Q, 7<<13|vlan, b) },
	"802.1ad tag 0":         func(b []byte) []byte { return tag(unix.ETH_P_8021AD, 0, b) },
	"802.1ad tag 5":         func(b []byte) []byte { return tag(unix.ETH_P_8021AD, vlan, b) },
	"two tags":              func(b []byte) []byte { return tag(unix.ETH_P_8021Q, vlan, tag(unix.ETH_P_8021Q, 0, b)) },
	"two tags, 802.1ad":     func(b []byte) []byte { return tag(unix.ETH_P_8021AD, 0, tag(unix.ETH_P_8021Q, vlan, b)) },
}

// tagFrame is a frame that somebody sends.
type tagFrame struct {
	what  string
	from  *namespace
	bytes func(number int) []byte
	// without is where it must arrive without podfence's rules, or the test shows nothing.
	without string
}

// frames are what is sent from and to the pod, in tags, and where a bridge puts one on.
func (l *tagLab) frames(t *testing.T) (all []tagFrame) {
	add := func(what string, from *namespace, dst, src mac, tagged, without string) {
		for _, ends := range [][2]string{{"198.51.100.7", "10.244.1.7"}, {"2001:db8::7", "fd00:10:244:1::7"}} {
			kind := uint16(unix.ETH_P_IP)
			if src == podMAC {
				ends[0], ends[1] = ends[1], ends[0]
			}
			if netip.MustParseAddr(ends[0]).Is6() {
				kind = unix.ETH_P_IPV6
			}
			all = append(all, tagFrame{what + ", " + tagged + ", to " + ends[1], from, func(n int) []byte {
				return tags[tagged](ether(dst, src, kind, packet(t, n, ends[0], ends[1], 0)))
			}, without})
		}
	}
	for tagged := range tags {
		arrives := "pod"
		if tagged == "no tag" {
			arrives = "" // the policies see it
		}
		add("wire to pod", l.wire, podMAC, wireMAC, tagged, arrives)
	}
	for _, tagged := range []string{"tag 0", "tag 5"} {
		add("wire to all", l.wire, mac{255, 255, 255, 255, 255, 255}, wireMAC, tagged, "pod")
		add("wire to a group", l.wire, mac{1, 0, 0x5e, 0, 0, 1}, wireMAC, tagged, "pod")
		toBridge := "node"
		if l.trunk != nil {
			toBridge = "pod" // the bridge is not in the VLAN
		}
		add("wire to the bridge", l.wire, bridgeMAC, wireMAC, tagged, toBridge)
	}
	add("pod to wire", l.pod, wireMAC, podMAC, "no tag", "")
	if l.trunk != nil {
		add("trunk to pod", l.trunk, podMAC, trunkMAC, "tag 5", "pod")
		add("trunk to the bridge", l.trunk, bridgeMAC, trunkMAC, "tag 5", "pod")
		add("pod to trunk", l.pod, trunkMAC, podMAC, "no tag", "trunk")
	}
	return all
}

func (l *tagLab) send(frames []tagFrame, first int) {
	for i, f := range frames {
		(&guardPod{namespace: f.from}).send(f.bytes(first + i))
	}
	time.Sleep(300 * time.Millisecond)
}

// fence isolates the pod.
func (l *tagLab) fence(t *testing.T) {
	t.Helper()
	addrs := parseAddrs([]string{"10.244.1.7", "fd00:10:244:1::7"})
	links := ruleset.Links{All: []string{"pod"}, Closed: [2][]string{{"pod"}, {"pod"}}, ClosedAddrs: [2][]netip.Addr{addrs, addrs}}
	for _, addr := range addrs {
		links.Addrs = append(links.Addrs, ruleset.LinkAddr{Link: "pod", Addr: addr})
	}
	if err := l.node.open().Apply(ruleset.BuildLinks(links, ruleset.FragmentMemory{}).Replacement()); err != nil {
		t.Fatal(err)
	}
}

// observer counts frames with IP behind one tag that would go out by the pod's port. A bridge that filters VLANs
// has taken the tag off there. On another the rules at forward drop them, so that nothing but this tells whether
// those at prerouting have.
const observer = `
table bridge observer {
	chain forward {
		type filter hook forward priority -300
		oifname "pod" ether type { 8021q, 8021ad } meta protocol { ip, ip6 } counter
	}
}
`

// TestTags: no frame gets past policies by a tag that a bridge takes off, or puts on: not to an isolated pod, nor
// from it. What is for the node itself goes on to it, where it is judged when it is routed.
func TestTags(t *testing.T) {
	for name, filtering := range map[string]bool{"no VLANs": false, "VLANs": true} {
		t.Run(name, func(t *testing.T) {
			l := newTagLab(t, filtering)
			frames := l.frames(t)
			l.send(frames, 0)
			l.fence(t)
			l.node.nft(observer, "-f", "-")
			l.send(frames, 1000)
			if seen := l.node.nft("", "list", "table", "bridge", "observer"); !strings.Contains(seen, "packets 0 ") {
				t.Errorf("the bridge passes a frame on to where one that filters VLANs has taken its tag off:\n%s", seen)
			}
			for i, f := range frames {
				without, with := l.watch.at(i), l.watch.at(1000+i)
				if f.without != "" && !slices.Contains(without, f.without) {
					t.Errorf("%s: without the rules, arrives at %q, not at %s", f.what, without, f.without)
				}
				toPod, fromPod := slices.Contains(with, "pod"), f.from == l.pod && len(with) > 0
				if toPod || fromPod || f.without == "node" && !slices.Contains(with, "node") {
					t.Errorf("%s: with the rules, arrives at %q", f.what, with)
				}
			}
			if t.Failed() {
				t.Log(strings.TrimSpace(l.node.nft("", "list", "table", "bridge", "podfence")))
			}
		})
	}
}
