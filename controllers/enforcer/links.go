package enforcer

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// PodLinks finds the node's ends of the pods' links where another plugin makes them.
type PodLinks interface {
	// Find returns where addresses of pods of this node are.
	Find(ctx context.Context, addrs []netip.Addr) (map[netip.Addr]node.PodLink, error)
	// Changed has a token when that may have changed.
	Changed() <-chan struct{}
}

// links are the pods' links where another plugin connects the pods. What isolated pods send and get
// by other addresses than their own is closed by their links (ruleset.Links), in the policies' table
// and in a table of family bridge.
type links struct {
	finder PodLinks
	// moved holds a token when the links may have changed.
	moved chan struct{}

	// What follows is for the loop's goroutine alone. locals are the addresses of the node's
	// containers. found says where they are; for an address that was looked for and not found it
	// has an empty entry. now follows from both.
	locals *policy.Locals
	found  map[netip.Addr]node.PodLink
	now    ruleset.Links
	// bridged: some of these containers are behind a bridge.
	bridged atomic.Bool
}

// PodsBehindBridge reports whether another plugin's bridge connects pods of this node, so that what it passes
// from one to another is policed only if br_netfilter takes it to the rules.
func (e *Enforcer) PodsBehindBridge() bool { return e.links != nil && e.links.bridged.Load() }

func newLinks(o Options) *links {
	if o.PodLinks == nil {
		return nil
	}
	return &links{finder: o.PodLinks, moved: make(chan struct{}, 1), locals: policy.NewLocals(policy.Intent{}), found: map[netip.Addr]node.PodLink{}}
}

// maybeMoved has a token when the links may have changed.
func (l *links) maybeMoved() <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.moved
}

// into puts the links into a table that was built anew from an intent, so that nothing that they
// close is open in between.
func (l *links) into(table *ruleset.Table, in policy.Intent) error {
	if l == nil {
		return nil
	}
	l.locals = policy.NewLocals(in)
	if err := l.locate(); err != nil {
		return err
	}
	table.UpdateLinks(l.now)
	return nil
}

// follow takes in what was committed. If the table was built anew, into has done so already.
func (l *links) follow(c Committed) {
	if c.Intent == nil {
		l.locals.Apply(c.Delta)
	}
}

// locate finds the links of addresses that are new, and works out which are to be closed.
func (l *links) locate() error {
	locals := l.locals.Addrs()
	var fresh []netip.Addr
	held := map[netip.Addr]bool{}
	for _, local := range locals {
		held[local.Addr] = true
		if _, known := l.found[local.Addr]; !known && local.HostInterface == "" {
			fresh = append(fresh, local.Addr)
		}
	}
	maps.DeleteFunc(l.found, func(addr netip.Addr, _ node.PodLink) bool { return !held[addr] })
	if err := l.find(fresh); err != nil {
		return err
	}
	l.now = linksOf(locals, l.found)
	l.bridged.Store(len(l.now.SomewhereAddrs) > 0)
	return nil
}

// find looks where addresses are.
func (l *links) find(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	found, err := l.finder.Find(context.Background(), addrs)
	if err != nil {
		return fmt.Errorf("finding the pods' links: %w", err)
	}
	for _, addr := range addrs {
		l.found[addr] = found[addr]
	}
	return nil
}

// findAll looks where all addresses are, also those found before, for the commit that follows.
func (l *links) findAll() error { return l.find(slices.Collect(maps.Keys(l.found))) }

// linksPart is the part of the policies' table that is about the links.
type linksPart struct {
	links    *links
	policies *sharedTable
}

func (p *linksPart) follow(c Committed) { p.links.follow(c) }

func (p *linksPart) plan(bool) (plan nft.Plan, err error) {
	if err := p.links.locate(); err != nil {
		return plan, err
	}
	p.policies.change(func(t *ruleset.Table) { plan = t.UpdateLinks(p.links.now) })
	return plan, nil
}

// frames is the content of the table of family bridge that is about the links. It is planned after
// linksPart, which has looked where the links are.
type frames struct {
	links   *links
	options ruleset.Options
	table   *ruleset.Frames
}

func newFrames(l *links, options ruleset.Options) *frames {
	return &frames{links: l, options: options}
}

func (f *frames) follow(Committed) {}

func (f *frames) plan(anew bool) (nft.Plan, error) {
	if anew {
		f.table = ruleset.BuildLinks(f.links.now, f.options.Fragments)
		if group := f.options.LogGroup; group != 0 {
			f.table.Tell(group)
		}
		return f.table.Replacement(), nil
	}
	return f.table.UpdateLinks(f.links.now), nil
}

// linksOf says which links are to be closed: all but those of which it is known that all their
// pods are open.
func linksOf(locals []policy.LocalAddr, found map[netip.Addr]node.PodLink) ruleset.Links {
	closed := map[string][2]bool{}
	attached := map[string]bool{}
	for _, local := range locals {
		if local.HostInterface != "" {
			attached[local.HostInterface] = true
		}
	}
	note := func(name string, is [2]bool) {
		was := closed[name]
		closed[name] = [2]bool{was[0] || is[0], was[1] || is[1]}
	}
	var all ruleset.Links
	somewhere := map[string]bool{}
	for _, local := range locals {
		for d, is := range local.Closed {
			if is {
				all.ClosedAddrs[d] = append(all.ClosedAddrs[d], local.Addr)
			}
		}
		at := found[local.Addr]
		own := local.HostInterface
		if own == "" && at.Own {
			own = at.Names[0]
		}
		if own != "" {
			note(own, local.Closed)
			all.Addrs = append(all.Addrs, ruleset.LinkAddr{Link: own, Addr: local.Addr})
			continue
		}
		// The pod is behind one of these ports, and nobody can tell which.
		if len(at.Names) > 0 {
			all.SomewhereAddrs = append(all.SomewhereAddrs, local.Addr)
		}
		for _, name := range at.Names {
			if !attached[name] {
				somewhere[name] = true
				note(name, [2]bool{true, true})
			}
		}
	}
	all.Somewhere = slices.Sorted(maps.Keys(somewhere))
	for _, name := range slices.Sorted(maps.Keys(closed)) {
		all.All = append(all.All, name)
		for d, is := range closed[name] {
			if is {
				all.Closed[d] = append(all.Closed[d], name)
			}
		}
	}
	return all
}

const (
	// linksRetry is how often the links are looked for without news.
	linksRetry = time.Minute
	// linksPause is how long to wait after news, as more may follow.
	linksPause = 200 * time.Millisecond
)

// watch has the links looked for again when they may have changed, until ctx is done. It only
// leaves a token in moved: the loop looks, as what was found is for its goroutine alone.
func (l *links) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.finder.Changed():
		case <-time.After(linksRetry):
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(linksPause):
		}
		signal(l.moved)
	}
}
