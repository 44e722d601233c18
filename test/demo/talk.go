package main

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/podfence/podfence/policy"
)

// How long a conversation may take: one that must succeed gets time on a busy
// machine; one that must not is given up soon.
const (
	patience   = 5 * time.Second
	impatience = 500 * time.Millisecond
)

// conversation is what became of one host's talk to one service, by both
// families.
type conversation struct {
	from    *person
	to      service
	verdict policy.Verdict // of the last packet
	want    bool
	wrong   bool
}

// talk has everyone talk to every service, all at once.
func (t *town) talk(ctx context.Context, s policy.Snapshot) ([]conversation, error) {
	var all []conversation
	for _, from := range t.people {
		for _, to := range t.services {
			if from != to.host {
				all = append(all, conversation{from: from, to: to})
			}
		}
	}
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() { all[i].hold(s) })
	}
	wait.Wait()
	return all, ctx.Err()
}

// hold talks, over IPv4 and IPv6, and compares with the verdict function.
func (c *conversation) hold(s policy.Snapshot) {
	for _, dst := range c.to.host.IPs {
		c.verdict = policy.Judge(s, policy.Packet{
			Src: c.from.IP(dst), Dst: dst, Protocol: c.to.protocol, DstPort: c.to.port, HopLimit: 64,
		}, policy.JudgeOptions{})
		c.want = c.verdict.Allowed()
		timeout := impatience
		if c.want {
			timeout = patience
		}
		heard := c.from.Exchange(c.to.protocol, netip.AddrPortFrom(dst, c.to.port), timeout) == nil
		c.wrong = c.wrong || heard != c.want
	}
}
