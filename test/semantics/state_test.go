package semantics_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
)

func TestA39_RepliesAndRelated(t *testing.T) {
	// shop may only talk to db, and db only be talked to: no rule allows a
	// reply.
	c := cluster(t, base+`
		policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: data}}}]}]}
		policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}]}]}`)
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		c.serve("db/pg", protocol, 80)
		c.serve("shop/web", protocol, 80)
		c.talks(true, "shop/web", "db/pg", protocol, 80)
		c.talks(false, "db/pg", "shop/web", protocol, 80)
	}
	// Related: that nobody listens, which the pod that may send nothing says.
	for _, addr := range c.host("db/pg").IPs {
		conn := c.dial("shop/web", policy.UDP, netip.AddrPortFrom(addr, 9))
		if err := lab.Echo(conn, []byte("anybody?"), 3*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("port unreachable from %s does not come back: %v", addr, err)
		}
	}
	// An echo reply.
	for _, family := range families {
		network, protocol, kind, reply := "ip4:icmp", policy.ICMP, uint8(8), byte(0)
		if family == "6" {
			network, protocol, kind, reply = "ip6:ipv6-icmp", policy.ICMPv6, 128, 129
		}
		src, dst := c.ip("shop/web", family), c.ip("db/pg", family)
		raw := c.listen("shop/web", network, src.String())
		c.send("shop/web", policy.Packet{Src: src, Dst: dst, Protocol: protocol, ICMPType: kind}, 4711, nil)
		if !receive(t, raw, 3*time.Second, func(_ net.Addr, data []byte) bool {
			return data[0] == reply && binary.BigEndian.Uint16(data[4:]) == 4711
		}) {
			t.Errorf("no echo reply over IPv%s", family)
		}
	}
	// Invalid: a reset of a connection that there never was. It does not get
	// through to or from an isolated pod, whatever the policies allow.
	c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}`)
	for _, x := range []struct {
		from, to string
		want     bool
	}{{"shop/web", "db/pg", false}, {"db/pg", "shop/web", false}, {"ops/cron", "shop/web", true}} {
		src, dst := c.ip(x.from, "4"), c.ip(x.to, "4")
		raw := c.listen(x.to, "ip4:tcp", dst.String())
		c.send(x.from, policy.Packet{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: 80}, 4712, reset)
		if got := receive(t, raw, soon, func(_ net.Addr, data []byte) bool { return binary.BigEndian.Uint16(data) == 4712 }); got != x.want {
			t.Errorf("reset from %s reached %s: %t", x.from, x.to, got)
		}
	}
	// A connection that such a reset does not touch goes on.
	c.expect(`allow shop/web -> db/pg tcp 80`)
}

// reset makes an IPv4 SYN a RST.
func reset(packet []byte) {
	tcp := packet[20:]
	sum := uint32(binary.BigEndian.Uint16(tcp[16:])) + 0x02 // one's complement: less set bits, greater sum
	tcp[13] = 0x04
	sum += 0xffff - 0x04
	binary.BigEndian.PutUint16(tcp[16:], uint16(sum&0xffff+sum>>16))
}

func TestA41_DefaultZone(t *testing.T) {
	c := cluster(t, base+denyAll+`policy db/in {podSelector: {}, ingress: [{}]}
		policy shop/out {podSelector: {}, policyTypes: [Egress], egress: [{}]}`)
	listed, err := c.Run(&c.Node.Host, "", "nft", "list", "table", "inet", nft.TableName)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{c.Table().Text(), listed} {
		for _, word := range []string{"notrack", "zone", "hook prerouting"} {
			if strings.Contains(text, word) {
				t.Errorf("the table has %q:\n%s", word, text)
			}
		}
	}
	// A connection through a Service is one entry of the zone that its NAT is
	// in, by both its addresses.
	c.service("db/pg", 5432)
	c.serve("db/pg", policy.TCP, 5432)
	conn := c.dial("shop/web", policy.TCP, netip.MustParseAddrPort("10.96.0.10:80"))
	port := netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
	found := 0
	err = c.Node.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, flow := range flows {
			if flow.Forward.SrcPort != port || flow.Forward.Protocol != unix.IPPROTO_TCP {
				continue
			}
			found++
			if flow.Zone != 0 || !flow.Forward.DstIP.Equal(net.ParseIP("10.96.0.10")) || !flow.Reverse.SrcIP.Equal(net.IP(c.ip("db/pg", "4").AsSlice())) {
				t.Errorf("zone %d, %s", flow.Zone, flow)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != 1 {
		t.Errorf("%d conntrack entries of one connection", found)
	}
}

func TestA42_FragmentsAreOneDatagram(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		c := clusterWith(t, attach, ruleset.Options{}, base+`
			policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{protocol: UDP, port: 53}]}]}`)
		c.serve("db/pg", policy.UDP, 53)
		c.serve("db/pg", policy.UDP, 54)
		for _, addr := range c.host("db/pg").IPs {
			for port, want := range map[uint16]bool{53: true, 54: false} {
				patience := soon
				if want {
					patience = 3 * time.Second
				}
				conn := c.dial("shop/web", policy.UDP, netip.AddrPortFrom(addr, port))
				if err := lab.Echo(conn, bytes.Repeat([]byte("x"), 4000), patience); (err == nil) != want {
					t.Errorf("%s, 4000 octets to %s port %d: %v", attach, addr, port, err)
				}
			}
		}
	}
}

func TestA43_MulticastIsNoPod(t *testing.T) {
	groups := `
		%s shop/web -> 224.0.0.1 udp 5353 at input
		%s shop/web -> ff02::1 udp 5353 at input
		%s shop/web -> 255.255.255.255 udp 137 at input
	`
	blocks := `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 224.0.0.0/4}}, {ipBlock: {cidr: "ff00::/8"}}, {ipBlock: {cidr: 255.255.255.255/32}}]}]}`
	pods := `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}`
	c := cluster(t, base)
	for policies, word := range map[string]string{``: "allow", pods: "deny", blocks: "allow"} {
		c.becomes(base + policies)
		c.expect(replace(groups, "%s", word))
	}
	c.becomes(base + blocks)
	c.expect(`deny shop/web -> 10.244.1.99 udp 5353`)
	// On a bridge they are flooded: the sender's egress is policed at every
	// port. The receivers' ingress is not; docs/SEMANTICS.md says so.
	flooded := `
		%s shop/web -> 224.0.0.1 udp 5353 reach db/pg
		%s shop/web -> ff02::1 udp 5353 reach db/pg
	`
	b := clusterWith(t, lab.Bridged, ruleset.Options{}, base)
	for policies, word := range map[string]string{``: "allow", pods: "deny", blocks: "allow"} {
		b.becomes(base + policies)
		b.expect(replace(flooded, "%s", word))
	}
}

func TestA44_NeighboursAreFound(t *testing.T) {
	onlyTCP80 := base + `
		policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{ports: [{port: 80}]}]}
		policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}]}`
	c := cluster(t, onlyTCP80)
	c.expect(`
		allow shop/web -> ff02::2 icmp6 133 hop 255 at input
		deny  shop/web -> ff02::2 icmp6 133 hop 254 at input     # has been routed: none of the link's
		deny  shop/web -> ff02::1 icmp6 133 hop 255 at input     # nobody asks all nodes for routers
		deny  shop/web -> fe80::1 icmp6 135 hop 255 at input behind 0
		deny  shop/web -> fe80::1 icmp6 136 hop 255 at input behind 43
		deny  shop/web -> fe80::1 icmp6 133 hop 255 at input
		deny  shop/web -> fe80::1 icmp6 134 hop 255 at input     # a pod is no router
		deny  shop/web -> ff02::1 icmp6 134 hop 255 at input
		allow shop/web -> fe80::1 icmp6 135 hop 255 at input
		allow shop/web -> ff02::1:ff00:1 icmp6 135 hop 255 at input
		deny  shop/web -> fe80::1 icmp6 135 hop 254 at input
		deny  shop/web -> ff02::1 icmp6 135 hop 255 at input     # not where neighbours are asked for
		allow shop/web -> fe80::1 icmp6 136 hop 255 at input
		allow shop/web -> ff02::1 icmp6 136 hop 255 at input
		deny  shop/web -> ff02::2 icmp6 136 hop 255 at input
		deny  shop/web -> fe80::1 ping at input
		deny  shop/web -> ff02::1 icmp6 130 hop 1 at input       # not from a link-local address
		deny  shop/web -> ff02::16 icmp6 143 hop 1 at input
		deny  shop/web -> db/pg icmp6 135 hop 255                # a router lowers it
	`)
	b := clusterWith(t, lab.Bridged, ruleset.Options{}, onlyTCP80)
	b.expect(`
		allow shop/web -> db/pg icmp6 135 hop 255
		allow db/pg -> shop/web icmp6 136 hop 255
		deny  shop/web -> db/pg icmp6 135 hop 254
		deny  shop/web -> db/pg icmp6 134 hop 255
		deny  shop/web -> db/pg icmp6 133 hop 255
		deny  db/pg -> shop/web ping
	`)
	// A router lowers the hop limit before the hook forward: listener discovery that was
	// sent with 2 is seen with 1. Only a message that no router would forward passes.
	c.expect(`
		deny shop/web -> db/pg icmp6 130 hop 2
		deny shop/web -> db/pg icmp6 131 hop 2
		deny shop/web -> db/pg icmp6 132 hop 2
		deny shop/web -> db/pg icmp6 143 hop 2
		deny world -> db/pg icmp6 143 hop 2
		deny shop/web -> world icmp6 143 hop 2
	`)
	b.expect(`
		deny shop/web -> db/pg icmp6 130 hop 1
		deny shop/web -> db/pg icmp6 143 hop 1
	`)
	// ARP and ND for real: nobody knows anybody's link address.
	b.serve("db/pg", policy.TCP, 80)
	for range 3 {
		if err := b.FlushNeighbours(); err != nil {
			t.Fatal(err)
		}
		b.talks(true, "shop/web", "db/pg", policy.TCP, 80)
		if err := b.FlushNeighbours(); err != nil {
			t.Fatal(err)
		}
		b.talks(true, "node", "db/pg", policy.TCP, 80)
	}
	b.talks(false, "shop/web", "db/pg", policy.TCP, 81)
}

func TestA45_DHCPIsOrdinaryUDP(t *testing.T) {
	dhcp := `
		%s shop/web -> 255.255.255.255 udp 67 at input
		%s shop/web -> node udp 67 family 4
		%s shop/web -> ff02::1 udp 547 at input
	`
	c := cluster(t, base+denyAll)
	c.expect(replace(dhcp, "%s", "deny"))
	c.becomes(base + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 67}, {protocol: UDP, port: 547}]}]}`)
	c.expect(replace(dhcp, "%s", "allow") + `deny shop/web -> node udp 68`)
}

func TestA48_DenyIsSilent(t *testing.T) {
	text := base + `policy db/p {podSelector: {}, ingress: []}`
	try := func(c *fenced, protocol policy.Protocol, addr netip.Addr, patience time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := c.host("shop/web").Dial(ctx, protocol, netip.AddrPortFrom(addr, 80))
		if err != nil {
			return err
		}
		defer conn.Close()
		return lab.Echo(conn, []byte("hello"), patience)
	}
	c := cluster(t, text)
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		for _, addr := range c.host("db/pg").IPs {
			if err := try(c, protocol, addr, soon); !isTimeout(err) {
				t.Errorf("%s to %s: %v, want a timeout", protocol, addr, err)
			}
		}
	}
	c.expect(`deny shop/web -> db/pg tcp 80`)
	// Reject tells the sender that an administrator forbids it: at once, or, as
	// a TCP socket that is still busy sending takes no notice, a second later.
	c = clusterWith(t, lab.Routed, ruleset.Options{Reject: true}, text)
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		for _, addr := range c.host("db/pg").IPs {
			began := time.Now()
			if err := try(c, protocol, addr, 5*time.Second); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EACCES) {
				t.Errorf("%s to %s: %v after %s, want a rejection", protocol, addr, err, time.Since(began))
			}
		}
	}
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		deny  shop/web -> db/pg ping
		allow db/pg -> shop/web tcp 80
	`)
}
