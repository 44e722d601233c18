package connectivity_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// denying lets the pods of namespace shop send to one port only, and those of
// vault receive nothing.
const denying = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: one-port}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{ports: [{protocol: UDP, port: 1000}, {protocol: TCP, port: 1000}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: vault, name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
`

// starts is how many pods are started while they flood everyone.
const starts = 200

func TestNothingDeniedPassesWhilePodsStart(t *testing.T) {
	c := newCluster(t, settings{nodes: 2, more: denying})
	outside, err := c.nodes[0].AddExternal("outside", netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:0:2::1"))
	c.must(err)
	hall := append(c.pod("hall", 0, "hall-1"), c.pod("hall", 1, "hall-2")...)
	vault := append(c.pod("vault", 0, "vault-1"), c.pod("vault", 1, "vault-2")...)
	open := []*lab.Host{hall[0].Host, hall[1].Host, outside, &c.nodes[0].Host, &c.nodes[1].Host}
	closed := []*lab.Host{vault[0].Host, vault[1].Host}

	var targets []target
	aim := func(h *lab.Host, port uint16) {
		for _, ip := range h.IPs {
			for _, protocol := range []policy.Protocol{policy.UDP, policy.TCP} {
				targets = append(targets, target{protocol, netip.AddrPortFrom(ip, port)})
			}
		}
	}
	for _, h := range open {
		c.meter(h)
		aim(h, deniedPort)
	}
	for _, h := range closed {
		c.meter(h)
		aim(h, allowedPort) // the sender may, the receiver may not
	}
	for _, h := range hall {
		_, err := h.Serve(policy.TCP, allowedPort)
		c.must(err)
		aim(h.Host, allowedPort)
	}

	// A few at a time, so that they also start beside each other's floods.
	const atOnce = 4
	var sent int64
	for batch := range starts / atOnce {
		var names []string
		for i := range atOnce {
			names = append(names, fmt.Sprintf("start-%d", batch*atOnce+i))
		}
		pods := c.add("shop", 0, names...)
		var floods []*flood
		for _, p := range pods {
			floods = append(floods, newFlood(p.Host, targets))
		}
		c.together(pods, c.connect)
		var before []int64
		for _, f := range floods {
			before = append(before, f.sent.Load())
			sent -= f.sent.Load()
		}
		time.Sleep(20 * time.Millisecond)
		for i, f := range floods {
			c.eventually("a flood", func() error {
				if n := f.sent.Load() - before[i]; n < 100 {
					return fmt.Errorf("%d packets", n)
				}
				return nil
			})
		}
		for _, f := range floods {
			c.must(f.halt())
			sent += f.sent.Load()
		}
		for i, p := range pods {
			to := hall[i%len(hall)].IPs[i/len(hall)%2]
			if err := p.Exchange(policy.TCP, netip.AddrPortFrom(to, allowedPort), patience); err != nil {
				t.Errorf("%s, what is allowed: %v", p, err)
			}
		}
		// Half of them stop as pods do, half stay.
		for _, p := range pods[:atOnce/2] {
			c.must(c.disconnect(c.fences[0], p))
			c.must(c.nodes[0].RemoveSandbox(p.Name))
		}
	}
	if sent < starts*100 {
		t.Errorf("only %d packets were sent after the pods were connected", sent)
	}
	for _, h := range open {
		if n := c.count(h, "denied"); n > 0 {
			t.Errorf("%d denied packets have arrived at %s", n, h)
		}
	}
	for _, h := range closed {
		if n := c.count(h, "allowed"); n > 0 {
			t.Errorf("%d packets that it denies have arrived at %s", n, h)
		}
	}
	for _, h := range hall {
		n := c.count(h.Host, "allowed")
		t.Logf("%d allowed packets have arrived at %s", n, h)
		if n < starts {
			t.Errorf("only %d allowed packets have arrived at %s", n, h)
		}
	}
	t.Logf("%d packets sent after the pods were connected", sent)
}

// A pod may be given the address of one before it, which was allowed more, and
// of whose end the agent has not heard.
func TestNothingDeniedPassesFromAnInheritedAddress(t *testing.T) {
	const room = 5
	c := newCluster(t, settings{nodes: 2, tiny: true, more: denying})
	hall := c.pod("hall", 1, "hall-1")[0]
	c.meter(hall.Host)
	var targets []target
	for _, ip := range hall.IPs {
		targets = append(targets, target{policy.UDP, netip.AddrPortFrom(ip, deniedPort)}, target{policy.TCP, netip.AddrPortFrom(ip, deniedPort)})
	}
	for round := range 4 {
		var before, after []string
		for i := range room {
			before = append(before, fmt.Sprintf("before-%d-%d", round, i))
			after = append(after, fmt.Sprintf("after-%d-%d", round, i))
		}
		free := c.pod("hall", 0, before...)
		had := map[netip.Addr]bool{}
		for _, p := range free {
			c.expect("the pod before", udp(p.Host, hall.Host, allowedPort, true))
			for _, ip := range p.IPs {
				had[ip] = true
			}
		}
		dead := c.fences[0]
		c.stop(0)
		for _, p := range free {
			c.must(c.disconnect(dead, p))
			c.must(c.nodes[0].RemoveSandbox(p.Name))
		}
		c.start(0)
		heirs := c.add("shop", 0, after...)
		var floods []*flood
		for _, p := range heirs {
			floods = append(floods, newFlood(p.Host, targets))
		}
		for _, p := range heirs {
			c.eventually("ADD with the next agent", func() error { return c.connect(p) })
			for _, ip := range p.IPs {
				// Of IPv6 there is one more.
				if ip.Is4() && !had[ip] {
					t.Errorf("%s has %s, which nobody had", p, ip)
				}
			}
		}
		time.Sleep(20 * time.Millisecond)
		for i, p := range heirs {
			c.must(floods[i].halt())
			c.must(c.disconnect(c.fences[0], p))
			c.must(c.nodes[0].RemoveSandbox(p.Name))
		}
	}
	if n := c.count(hall.Host, "denied"); n > 0 {
		t.Errorf("%d denied packets have arrived", n)
	}
}

// ADD answers when the rules are there, and pins all neighbours, so not even a
// pod's first packet is lost, and nothing would send these again.
func TestTheFirstPacketArrives(t *testing.T) {
	c := newCluster(t, settings{nodes: 2, more: denying})
	hall := append(c.pod("hall", 0, "hall-1"), c.pod("hall", 1, "hall-2")...)
	for _, h := range hall {
		_, err := h.Serve(policy.UDP, allowedPort)
		c.must(err)
	}
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("start-%d", i))
	}
	for i, p := range c.add("shop", 0, names...) {
		c.must(c.connect(p))
		to := hall[i%2].IPs[i/2%2]
		if err := p.Exchange(policy.UDP, netip.AddrPortFrom(to, allowedPort), time.Second); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// together does something for all pods at once.
func (c *cluster) together(pods []*pod, do func(*pod) error) {
	c.t.Helper()
	errs := make([]error, len(pods))
	var wait sync.WaitGroup
	for i, p := range pods {
		wait.Go(func() { errs[i] = do(p) })
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			c.t.Fatalf("%s: %v", pods[i], err)
		}
	}
}
