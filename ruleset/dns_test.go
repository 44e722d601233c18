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
	namesOptions = ruleset.NamesOptions{Queue: 28775, QueryGroup: 28776}
	dns4, dns6   = netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd00:96::a]:53")
)

// TestRenew: each resolver is renewed once for each protocol, in a transaction of one operation for each family.
func TestRenew(t *testing.T) {
	g := NewWithT(t)
	names := ruleset.BuildNames(askers, namesOptions)
	g.Expect(names.Renew(nil).Empty()).To(BeTrue())
	one := "element inet podfence resolvers-4 { 10.96.0.10 . tcp . 53, 10.96.0.10 . udp . 53 }\n"
	g.Expect(names.Renew([]netip.AddrPort{dns4, dns4}).Text()).To(Equal("add " + one + "delete " + one + "add " + one))
	g.Expect(names.Renew([]netip.AddrPort{dns6, dns4}).Ops).To(HaveLen(2))
}

// TestUpdateNames: what is different is changed, and the table is the one that is built.
func TestUpdateNames(t *testing.T) {
	g := NewWithT(t)
	names := ruleset.BuildNames(askers, namesOptions)
	g.Expect(names.UpdateNames(askers).Empty()).To(BeTrue())
	g.Expect(names.UpdateNames(askers[:1]).Text()).To(Equal("delete element inet podfence askers-6 { fd00:10:244:1::2 }\n"))
	g.Expect(names.Text()).To(Equal(ruleset.BuildNames(askers[:1], namesOptions).Text()))
}

// TestNamesDenyNothing: whatever the packet is, the table lets it pass; and only replies of a resolver to what a pod has asked
// are queued.
func TestNamesDenyNothing(t *testing.T) {
	names := ruleset.BuildNames(askers, namesOptions)
	for _, op := range names.Renew([]netip.AddrPort{dns4, dns6}).Ops {
		renewed := op.(nft.RenewElements)
		for _, e := range renewed.Elements {
			names.Sets[renewed.Set].Elements[e] = struct{}{}
		}
	}
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
