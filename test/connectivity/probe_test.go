package connectivity_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// errNotYet is what eventually waits to go away.
var errNotYet = errors.New("not yet")

// udp and tcp are probes of all addresses of a host, that must arrive or not.
func udp(from, to *lab.Host, port uint16, expect bool) []lab.Probe {
	return probes(policy.UDP, from, to, port, expect)
}

func tcp(from, to *lab.Host, port uint16, expect bool) []lab.Probe {
	return probes(policy.TCP, from, to, port, expect)
}

func probes(protocol policy.Protocol, from, to *lab.Host, port uint16, expect bool) (all []lab.Probe) {
	for _, dst := range to.IPs {
		all = append(all, lab.Probe{From: from, To: to, Packet: policy.Packet{Dst: dst, Protocol: protocol, DstPort: port}, Expect: expect})
	}
	return all
}

// unowned are probes of addresses that nobody has: they must arrive nowhere.
func unowned(from *lab.Host, dst ...netip.Addr) (all []lab.Probe) {
	for _, d := range dst {
		all = append(all, lab.Probe{From: from, Packet: policy.Packet{Dst: d, Protocol: policy.UDP, DstPort: 1000}})
	}
	return all
}

// between is a probe from one of a host's addresses, or one that it pretends to
// have, to one of another's.
func between(from *lab.Host, src netip.Addr, to *lab.Host, dst netip.Addr, expect bool) lab.Probe {
	return lab.Probe{From: from, To: to, Packet: policy.Packet{Src: src, Dst: dst, Protocol: policy.UDP, DstPort: allowedPort}, Expect: expect}
}

// judge sends probes and returns what fared otherwise.
func (c *cluster) judge(all ...[]lab.Probe) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var batch []lab.Probe
	for _, p := range all {
		batch = append(batch, p...)
	}
	results, err := c.lab.Probe(ctx, batch)
	if err != nil {
		return err
	}
	var wrong []string
	for _, r := range results {
		if !r.AsExpected() {
			wrong = append(wrong, fmt.Sprintf("%s, at %v", r, r.At))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d of %d packets fared otherwise: %s", len(wrong), len(results), strings.Join(wrong, "; "))
	}
	return nil
}

// expect fails the test unless packets fare as expected.
func (c *cluster) expect(what string, all ...[]lab.Probe) {
	c.t.Helper()
	if err := c.judge(all...); err != nil {
		c.t.Errorf("%s: %v", what, err)
	}
}
