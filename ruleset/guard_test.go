package ruleset_test

import (
	"fmt"
	"math/rand"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

var gateway = ruleset.Gateway{
	MAC:   [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x01},
	Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")},
}

var ports = []string{"pf4kzn2xo1a7", "pfq3vd8s0mwe", "pf7c"}

// attachments are the first n pods'.
func attachments(n int) []policy.Attachment {
	var all []policy.Attachment
	for i := range n {
		port := fmt.Sprintf("pf%x", i)
		if i < len(ports) {
			port = ports[i]
		}
		all = append(all, policy.Attachment{
			HostInterface: port,
			MAC:           [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, byte(i + 2)},
			IPs:           []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:1::%x", i+2))},
		})
	}
	return all
}

// TestGuardUpdateEqualsBuild: a guard kept up to date is the one built from
// scratch, by plans that the kernel takes.
func TestGuardUpdateEqualsBuild(t *testing.T) {
	for seed := range random.Seeds(*seed, *histories/4) {
		r := rand.New(rand.NewSource(seed))
		table := ruleset.BuildGuard(nil, ruleset.Gateway{}, ruleset.FragmentMemory{})
		fake := newFake(t)
		fake.apply(table.Replacement())
		for range 20 {
			var have []policy.Attachment
			for _, a := range attachments(6) {
				switch r.Intn(5) {
				case 0:
					a.IPs = a.IPs[:1]
				case 1:
					a.MAC[5] = byte(r.Intn(8))
				case 2:
					a.HostInterface = ports[r.Intn(len(ports))]
				case 3:
					continue
				}
				have = append(have, a)
			}
			at := gateway
			switch r.Intn(4) {
			case 0:
				at.Addrs = at.Addrs[:r.Intn(2)]
			case 1:
				at.MAC[5] = byte(r.Intn(3))
			case 2:
				at = ruleset.Gateway{}
			}
			fake.apply(table.UpdateGuard(have, at))
			want := ruleset.BuildGuard(have, at, ruleset.FragmentMemory{})
			if diff := differ(&want.Table, &table.Table); diff != "" {
				t.Fatalf("seed %d (-built +updated):\n%s", seed, diff)
			}
			if diff := cmp.Diff(want.Text(), fake.text()); diff != "" || t.Failed() {
				t.Fatalf("seed %d: plans made another table (-want +have):\n%s", seed, diff)
			}
			if plan := table.UpdateGuard(have, at); !plan.Empty() {
				t.Fatalf("seed %d: no change takes\n%s", seed, plan.Text())
			}
		}
	}
}

// TestGuardPlans: a pod more is an element of two sets for each of its addresses.
func TestGuardPlans(t *testing.T) {
	table := ruleset.BuildGuard(attachments(1), gateway, ruleset.FragmentMemory{})
	chained := policy.Attachment{IPs: []netip.Addr{netip.MustParseAddr("10.244.1.9")}}
	want := `add element bridge podfence pod-addresses-4 { 10.244.1.3 }
add element bridge podfence pod-addresses-6 { fd00:10:244:1::3 }
add element bridge podfence senders-4 { "pfq3vd8s0mwe" . 0a:58:0a:f4:01:03 . 10.244.1.3 }
add element bridge podfence senders-6 { "pfq3vd8s0mwe" . 0a:58:0a:f4:01:03 . fd00:10:244:1::3 }
`
	if have := table.UpdateGuard(append(attachments(2), chained), gateway).Text(); have != want {
		t.Errorf("one pod more takes\n%s\nwant\n%s", have, want)
	}
	if have := table.UpdateGuard(attachments(1), gateway).Text(); have != strings.ReplaceAll(want, "add ", "delete ") {
		t.Errorf("one pod less takes\n%s", have)
	}
}

// TestGuardUnusable: what cannot be a pod's address opens nothing.
func TestGuardUnusable(t *testing.T) {
	long, noMAC := attachments(1)[0], attachments(1)[0]
	long.HostInterface = "pf01234567890123"
	noMAC.MAC = [6]byte{}
	empty := ruleset.BuildGuard(nil, gateway, ruleset.FragmentMemory{})
	have := ruleset.BuildGuard([]policy.Attachment{long, noMAC}, gateway, ruleset.FragmentMemory{})
	if diff := differ(&empty.Table, &have.Table); diff != "" {
		t.Error(diff)
	}
	unknown := ruleset.BuildGuard(attachments(1), ruleset.Gateway{Addrs: gateway.Addrs}, ruleset.FragmentMemory{})
	frame := nft.Frame{Port: ports[0], Group: ruleset.LinkGroup, Src: attachments(1)[0].MAC, Type: nft.TypeIPv4}
	packet := nft.TracePacket{Packet: policy.Packet{Src: attachments(1)[0].IPs[0], Dst: gateway.Addrs[0]}, Frame: frame}
	if trace := unknown.Trace(nft.Prerouting, packet); trace.Verdict != nft.Drop {
		t.Errorf("a gateway that is not known is reached:\n%s", trace)
	}
}

// TestPortsChain: what the node receives from a pod's port, and not from the
// bridge, is dropped, whoever sends it.
func TestPortsChain(t *testing.T) {
	table := ruleset.Build(policy.NewModel("node").Intent(), ruleset.Options{Guard: true})
	packet := policy.Packet{Src: attachments(1)[0].IPs[0], Dst: gateway.Addrs[0]}
	for port, want := range map[string]nft.Action{ports[0]: nft.Drop, "podfence0": nft.Accept, "eth0": nft.Accept, "pf0hpf": nft.Accept} {
		frame := nft.Frame{Port: port}
		if port == ports[0] {
			frame.Group = ruleset.LinkGroup
		}
		trace := table.Trace(nft.Prerouting, nft.TracePacket{Packet: packet, Frame: frame})
		if trace.Verdict != want {
			t.Errorf("in by %s: %s", port, trace)
		}
	}
}

// TestGuardTrace: which frames of the first of two pods pass the guard.
func TestGuardTrace(t *testing.T) {
	pods := attachments(2)
	own, other := pods[0], pods[1]
	table := ruleset.BuildGuard(pods, gateway, ruleset.FragmentMemory{})
	type frame = nft.TracePacket
	ip := func(change func(*frame)) frame {
		f := frame{
			Packet: policy.Packet{Src: own.IPs[0], Dst: other.IPs[0], Protocol: policy.TCP, DstPort: 80},
			Frame:  nft.Frame{Port: own.HostInterface, Group: ruleset.LinkGroup, Src: own.MAC, Dst: gateway.MAC, Type: nft.TypeIPv4},
		}
		change(&f)
		return f
	}
	ip6 := func(change func(*frame)) frame {
		return ip(func(f *frame) {
			f.Src, f.Dst, f.Frame.Type = own.IPs[1], other.IPs[1], nft.TypeIPv6
			change(f)
		})
	}
	solicit := func(change func(*frame)) frame {
		return ip6(func(f *frame) {
			f.Packet = policy.Packet{Src: own.IPs[1], Dst: netip.MustParseAddr("ff02::1:ff00:1"), Protocol: policy.ICMPv6, ICMPType: 135, HopLimit: 255}
			f.Frame.Dst = [6]byte{0x33, 0x33, 0xff, 0, 0, 1}
			change(f)
		})
	}
	arp := func(change func(*frame)) frame {
		f := frame{Frame: nft.Frame{
			Port: own.HostInterface, Group: ruleset.LinkGroup, Src: own.MAC, Dst: broadcast, Type: nft.TypeARP,
			ARP: nft.ARP{SrcMAC: own.MAC, Src: own.IPs[0], Dst: gateway.Addrs[0]},
		}}
		change(&f)
		return f
	}
	linkLocal := netip.MustParseAddr("fe80::858:aff:fef4:102")
	for name, test := range map[string]struct {
		frame frame
		pass  bool
	}{
		"ip":                               {ip(func(*frame) {}), true},
		"ip6":                              {ip6(func(*frame) {}), true},
		"ip of a port that is no pod's":    {ip(func(f *frame) { f.Frame = nft.Frame{Port: "eth0", Type: 0x88cc} }), true},
		"ip of a card's port":              {ip(func(f *frame) { f.Frame = nft.Frame{Port: "pf0hpf", Type: 0x88cc} }), true},
		"ip of an unknown pod":             {ip(func(f *frame) { f.Frame.Port = "pfnone" }), false},
		"ip to the neighbour's MAC":        {ip(func(f *frame) { f.Frame.Dst = other.MAC }), false},
		"ip with another's MAC":            {ip(func(f *frame) { f.Frame.Src = other.MAC }), false},
		"ip with another's address":        {ip(func(f *frame) { f.Src = other.IPs[0] }), false},
		"ip with all of another's":         {ip(func(f *frame) { f.Src, f.Frame.Src = other.IPs[0], other.MAC }), false},
		"ip broadcast":                     {ip(func(f *frame) { f.Frame.Dst = broadcast }), false},
		"tagged ip":                        {ip(func(f *frame) { f.Frame.Type = 0x8100 }), false},
		"EAPOL":                            {ip(func(f *frame) { f.Frame.Type = 0x888e }), false},
		"ip6 to the neighbour's MAC":       {ip6(func(f *frame) { f.Frame.Dst = other.MAC }), false},
		"ip6 with another's address":       {ip6(func(f *frame) { f.Src = other.IPs[1] }), false},
		"ip6 with a link-local address":    {ip6(func(f *frame) { f.Src = linkLocal }), false},
		"solicitation":                     {solicit(func(*frame) {}), true},
		"solicitation to the gateway":      {solicit(func(f *frame) { f.Frame.Dst, f.Dst = gateway.MAC, gateway.Addrs[1] }), true},
		"solicitation for the neighbour":   {solicit(func(f *frame) { f.Dst = netip.MustParseAddr("ff02::1:ff00:3") }), false},
		"solicitation to the neighbour":    {solicit(func(f *frame) { f.Frame.Dst = other.MAC }), false},
		"solicitation of another":          {solicit(func(f *frame) { f.Src = other.IPs[1] }), false},
		"advertisement":                    {solicit(func(f *frame) { f.Frame.Dst, f.Dst, f.ICMPType = gateway.MAC, gateway.Addrs[1], 136 }), true},
		"advertisement to the group":       {solicit(func(f *frame) { f.ICMPType = 136 }), false},
		"advertisement to all":             {solicit(func(f *frame) { f.ICMPType, f.Frame.Dst = 136, [6]byte{0x33, 0x33, 5: 1} }), false},
		"router advertisement":             {solicit(func(f *frame) { f.Frame.Dst, f.ICMPType = gateway.MAC, 134 }), false},
		"redirect":                         {solicit(func(f *frame) { f.Frame.Dst, f.ICMPType = gateway.MAC, 137 }), false},
		"ARP":                              {arp(func(*frame) {}), true},
		"ARP to the gateway":               {arp(func(f *frame) { f.Frame.Dst = gateway.MAC }), true},
		"ARP answer to a node's address":   {arp(func(f *frame) { f.Frame.Dst, f.Frame.ARP.Dst = gateway.MAC, netip.MustParseAddr("192.0.2.1") }), true},
		"ARP to the neighbour":             {arp(func(f *frame) { f.Frame.Dst = other.MAC }), false},
		"ARP for the neighbour":            {arp(func(f *frame) { f.Frame.ARP.Dst = other.IPs[0] }), false},
		"ARP with another's address":       {arp(func(f *frame) { f.Frame.ARP.Src = other.IPs[0] }), false},
		"ARP with another's MAC inside":    {arp(func(f *frame) { f.Frame.ARP.SrcMAC = other.MAC }), false},
		"ARP with another's MAC outside":   {arp(func(f *frame) { f.Frame.Src = other.MAC }), false},
		"ARP as the gateway":               {arp(func(f *frame) { f.Frame.ARP.Src = gateway.Addrs[0] }), false},
		"ARP with no address, to probe it": {arp(func(f *frame) { f.Frame.ARP.Src = netip.IPv4Unspecified() }), false},
	} {
		trace := table.Trace(nft.Prerouting, test.frame)
		passes := trace.Verdict == nft.Accept
		if passes != test.pass {
			t.Errorf("%s passes: %v\n%s", name, passes, trace)
		}
		// What reaches the bridge goes to no other port.
		if group := test.frame.Frame.Dst[0]&1 != 0; passes && group && table.Trace(nft.Forward, test.frame).Verdict == nft.Accept {
			t.Errorf("%s goes on to other ports", name)
		}
	}
}

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
