package kernel_test

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
)

// TestRangesNeverOpen: what a rule denies by a range of ports does not pass while the table is replaced, nor
// while the range changes, though the kernel searches new ranges only at the end of a transaction. Packets are
// sent all the time, each of a new flow, as fast as one processor can.
func TestRangesNeverOpen(t *testing.T) {
	n := newFlowNode(t, 1<<29)
	client, server := n.pod("client", 2), n.pod("server", 4)
	m := policy.NewModel("node")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	for name, ip := range map[string]netip.Addr{"client": client.IPs[0], "server": server.IPs[0]} {
		m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, Node: "node", IPs: []netip.Addr{ip}}))
	}
	deny := func(last uint16) policy.Change {
		return policy.SetPolicy(policy.Policy{
			Key: policy.Key{Name: "deny"}, Tier: policy.AdminTier, Subject: &policy.Selector{}, Rules: [2][]policy.Rule{{{
				Action: policy.Deny, AnyPeer: true, Ports: []policy.PortRange{{Protocol: policy.UDP, First: 7000, Last: last}},
			}}},
		})
	}
	m.Apply(deny(7100))
	table := ruleset.Build(m.Intent(), ruleset.Options{RevokedMark: 1 << 29})
	m.Take()
	check.NoError(t, n.conn.Apply(table.Replacement()))

	var arrived, sent atomic.Int64
	var receiver *net.UDPConn
	check.NoError(t, server.Do(func() (err error) {
		receiver, err = net.ListenUDP("udp4", &net.UDPAddr{IP: server.IPs[0].AsSlice(), Port: 7000})
		return err
	}))
	go func() {
		for buffer := make([]byte, 8); ; arrived.Add(1) {
			if _, err := receiver.Read(buffer); err != nil {
				return
			}
		}
	}()
	var stopped atomic.Bool
	ended := make(chan error, 1)
	to := &unix.SockaddrInet4{Port: 7000, Addr: server.IPs[0].As4()}
	go func() {
		ended <- client.Do(func() error {
			for ; !stopped.Load(); sent.Add(1) {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				_ = unix.Sendto(fd, []byte("x"), 0, to) // what answers come is no error here
				if err := unix.Close(fd); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	for i := range 40 {
		if i%2 == 0 {
			check.NoError(t, n.conn.Apply(table.Replacement()))
			continue
		}
		m.Apply(deny(uint16(7100 + i)))
		var plan nft.Plan
		for first := true; first || m.Pending(); first = false {
			plan = table.Update(m.Take())
			check.NoError(t, n.conn.Apply(plan))
		}
		time.Sleep(5 * time.Millisecond)
	}
	stopped.Store(true)
	check.NoError(t, <-ended)
	time.Sleep(50 * time.Millisecond)
	check.NoError(t, receiver.Close())
	if arrived.Load() > 0 || sent.Load() < 1000 {
		t.Errorf("of %d packets that are denied, %d have arrived", sent.Load(), arrived.Load())
	}
}
