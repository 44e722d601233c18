package ruleset_test

import (
	"net/netip"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

var (
	askers       = []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:10:244:1::2")}
	namesOptions = ruleset.NamesOptions{Queue: 28775, QueryGroup: 28776, Heartbeat: netip.MustParseAddrPort("127.0.0.1:40000")}
	dns4, dns6   = netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd00:96::a]:53")
)

// TestUpdateNames: what is different is changed, and the table is the one that is built.
func TestUpdateNames(t *testing.T) {
	g := NewWithT(t)
	names := ruleset.BuildNames(askers, []netip.AddrPort{dns4, dns6}, namesOptions)
	g.Expect(names.UpdateNames(askers, []netip.AddrPort{dns6, dns4, dns4}).Empty()).To(BeTrue())
	g.Expect(names.UpdateNames(askers[:1], []netip.AddrPort{dns6}).Text()).To(Equal("delete element inet podfence askers-6 { fd00:10:244:1::2 }\n" +
		"delete element inet podfence resolvers-4 { 10.96.0.10 . tcp . 53, 10.96.0.10 . udp . 53 }\n"))
	g.Expect(names.Text()).To(Equal(ruleset.BuildNames(askers[:1], []netip.AddrPort{dns6}, namesOptions).Text()))
}

// TestNamesDenyNothing: whatever the packet is, the table lets it pass; and only replies of a resolver to what a pod has asked
// are queued, while the agent's heartbeat comes.
func TestNamesDenyNothing(t *testing.T) {
	names := ruleset.BuildNames(askers, []netip.AddrPort{dns4, dns6}, namesOptions)
	names.Sets["alive"].Elements = map[nft.Element]struct{}{{}: {}} // a heartbeat has come
	dead := ruleset.BuildNames(askers, []netip.AddrPort{dns4, dns6}, namesOptions)
	queued := 0
	for _, state := range []nft.CtState{nft.New, nft.Established, nft.Related, nft.Invalid, nft.Untracked} {
		for _, reply := range []bool{false, true} {
			for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP} {
				for _, from := range []netip.AddrPort{dns4, dns6, netip.MustParseAddrPort("10.96.0.10:54"), netip.MustParseAddrPort("10.96.0.11:53")} {
					for _, to := range append(askers, netip.MustParseAddr("10.244.1.3")) {
						p := nft.TracePacket{State: state, Reply: reply, SrcPort: from.Port(), Packet: policy.Packet{Src: from.Addr(), Dst: to, Protocol: protocol, DstPort: 40000}}
						if p.Src.Is4() != to.Is4() {
							continue
						}
						trace := names.Trace(nft.Postrouting, p)
						is := len(trace.Steps) > 0 && trace.Steps[len(trace.Steps)-1].Rule.Verdict.Action == nft.Queue
						want := (from == dns4 || from == dns6) && to != netip.MustParseAddr("10.244.1.3") && protocol != policy.SCTP &&
							(state == nft.Untracked || reply && state != nft.Invalid)
						if is != want || trace.Verdict != nft.Accept {
							t.Errorf("%+v: queued: %t, want %t; %s", p, is, want, trace)
						}
						if is {
							queued++
							if frozen := dead.Trace(nft.Postrouting, p).Steps; len(frozen) != 1 {
								t.Errorf("%+v, without a heartbeat: %v", p, frozen)
							}
						}
					}
				}
			}
		}
	}
	if queued == 0 {
		t.Error("nothing was queued")
	}
}
