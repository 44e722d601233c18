package node

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// FuzzPlan: whatever the Nodes say, planning neither panics nor makes
// a route that can't be one: without a way, or into this node's own ranges.
func FuzzPlan(f *testing.F) {
	node := func(name byte, texts ...string) []byte {
		data := []byte{name}
		for _, text := range texts {
			if p, err := netip.ParsePrefix(text); err == nil {
				data = append(data, byte(1+p.Addr().BitLen()/128), byte(p.Bits()))
				data = append(data, p.Addr().AsSlice()...)
				continue
			}
			addr := netip.MustParseAddr(text)
			data = append(data, byte(3+addr.BitLen()/128))
			data = append(data, addr.AsSlice()...)
		}
		return append(data, 0)
	}
	one := slices.Concat(node(1, "192.0.2.1", "10.244.1.0/24", "fd00:1::/64"), node(2, "192.0.2.2", "10.244.2.0/24", "fd00:2::/64"), node(3, "198.51.100.3", "10.244.3.0/24"))
	f.Add(uint8(0), one)
	f.Add(uint8(1), slices.Concat(one, node(4, "0.0.0.0/0"), node(5, "192.0.2.1", "10.244.2.0/24"), node(6, "::", "255.255.255.255/32", "::/0")))
	f.Add(uint8(2), slices.Concat(one, node(7, "192.0.2.7", "10.244.1.128/25")))
	f.Add(uint8(2), slices.Concat(node(1, "fd00::1", "fd00:1::/64"), node(2, "fe80::1", "ff00::/8"), node(2, "fd00::2", "fd00:2::/127"), node(3, "::ffff:10.0.0.1", "::ffff:10.0.0.0/120")))
	f.Fuzz(func(t *testing.T, mode uint8, data []byte) {
		nodes := readNodes(data)
		if len(nodes) == 0 {
			return
		}
		self, _ := nodes[0].normal()
		others := nodes[1:]
		v := view{
			direct: func(a netip.Addr) (int, error) {
				if len(self.Addrs) > 0 && netip.PrefixFrom(self.Addrs[0], 24).Masked().Contains(a) {
					return 2, nil
				}
				return 0, errors.New("behind a router")
			},
			local: func(a netip.Addr) bool { return slices.Contains(self.Addrs, a) },
		}
		p := newPlan(Mode(mode%3), self, others, v)
		for key, r := range p.routes {
			if !key.dst.IsValid() || key.dst != key.dst.Masked() || key.dst.Bits() == 0 {
				t.Errorf("a route to %s", key.dst)
			}
			if r.unreachable {
				continue
			}
			if !r.gateway.IsValid() || slices.ContainsFunc(self.PodCIDRs, key.dst.Overlaps) && key.table != NodesTable {
				t.Errorf("route %v: %+v, in this node's %v", key, r, self.PodCIDRs)
			}
		}
		for text, to := range p.remotes {
			if mac, err := net.ParseMAC(text); err != nil || len(mac) != 6 || !to.IsValid() || v.local(to) {
				t.Errorf("node %s of MAC %s", to, text)
			}
		}
	})
}

// readNodes reads nodes off fuzz bytes: a name, then ranges and addresses.
func readNodes(data []byte) (nodes []Node) {
	take := func(n int) []byte {
		taken := make([]byte, n)
		data = data[copy(taken, data):]
		return taken
	}
	for len(data) > 0 && len(nodes) < 50 {
		n := Node{Name: string(rune('a' + take(1)[0]%20))}
		for kind := take(1)[0] % 6; kind != 0 && len(data) > 0; kind = take(1)[0] % 6 {
			switch kind {
			case 1:
				bits := int(take(1)[0])
				n.PodCIDRs = append(n.PodCIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte(take(4))), bits))
			case 2:
				bits := int(take(1)[0])
				n.PodCIDRs = append(n.PodCIDRs, netip.PrefixFrom(netip.AddrFrom16([16]byte(take(16))), bits))
			case 3:
				n.Addrs = append(n.Addrs, netip.AddrFrom4([4]byte(take(4))))
			case 4:
				n.Addrs = append(n.Addrs, netip.AddrFrom16([16]byte(take(16))))
			case 5:
				n.Addrs, n.PodCIDRs = append(n.Addrs, netip.Addr{}), append(n.PodCIDRs, netip.Prefix{})
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}
