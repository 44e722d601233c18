package controllers

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// PodLinks finds the node's ends of the pods' links where another plugin makes them.
type PodLinks interface {
	// Find returns where addresses of pods of this node are.
	Find(ctx context.Context, addrs []netip.Addr) (map[netip.Addr]node.PodLink, error)
	// Changed has a token when that may have changed.
	Changed() <-chan struct{}
}

// links closes by their links what isolated pods send and get besides their own addresses,
// where another plugin connects the pods (ruleset.Links): in the enforcer's table, and in
// the one of family bridge, which it keeps.
type links struct {
	PodLinks
	kernel Kernel
	// now are those in the enforcer's table. frames is the bridge's table, which the
	// kernel holds if known. found are where addresses are; one that was not found is
	// there too, as nowhere. Only Start's goroutine touches them.
	now    ruleset.Links
	frames *ruleset.Frames
	known  bool
	found  map[netip.Addr]node.PodLink
}

func newLinks(kernel Kernel, finder PodLinks) *links {
	if finder == nil {
		return nil
	}
	return &links{PodLinks: finder, kernel: kernel, found: map[netip.Addr]node.PodLink{}}
}

// forget has the next commit replace the bridge's table.
func (l *links) forget() {
	if l != nil {
		l.known = false
	}
}

// prepare works out the links for a table that will be built anew, so that none of what
// they close is open in between.
func (l *links) prepare(e *Enforcer) error {
	if l == nil {
		return nil
	}
	locals, err := l.locate(e)
	if err == nil {
		l.now = linksOf(locals, l.found)
	}
	return err
}

// into puts the links into a table that was built anew.
func (l *links) into(table *ruleset.Table) {
	if l != nil {
		table.UpdateLinks(l.now)
	}
}

// commit brings both tables up to date, in a transaction each.
func (l *links) commit(e *Enforcer) error {
	if l == nil {
		return nil
	}
	if err := l.prepare(e); err != nil {
		return err
	}
	e.tableMu.Lock()
	plan := e.table.UpdateLinks(l.now)
	e.tableMu.Unlock()
	if !plan.Empty() {
		if err := l.kernel.Apply(plan); err != nil {
			e.known = false
			return fmt.Errorf("the pods' links: %w", err)
		}
	}
	if l.known {
		plan = l.frames.UpdateLinks(l.now)
	} else {
		l.frames = ruleset.BuildLinks(l.now, e.options.Fragments)
		plan = l.frames.Replacement()
	}
	if plan.Empty() {
		return nil
	}
	err := l.kernel.Apply(plan)
	l.known = err == nil
	if err != nil {
		return fmt.Errorf("the bridges' table: %w", err)
	}
	return nil
}

// locate returns the node's addresses, and finds the links of those that are new.
func (l *links) locate(e *Enforcer) ([]policy.LocalAddr, error) {
	e.mu.Lock()
	locals := e.model.LocalAddrs()
	e.mu.Unlock()
	var fresh []netip.Addr
	there := map[netip.Addr]bool{}
	for _, local := range locals {
		there[local.Addr] = true
		if _, known := l.found[local.Addr]; !known && local.HostInterface == "" {
			fresh = append(fresh, local.Addr)
		}
	}
	maps.DeleteFunc(l.found, func(addr netip.Addr, _ node.PodLink) bool { return !there[addr] })
	return locals, l.find(fresh)
}

// find looks where addresses are.
func (l *links) find(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	found, err := l.Find(context.Background(), addrs)
	if err != nil {
		return fmt.Errorf("finding the pods' links: %w", err)
	}
	for _, addr := range addrs {
		l.found[addr] = found[addr]
	}
	return nil
}

// linksOf says which links are to be closed: those of which it is not known that all their
// pods are open.
func linksOf(locals []policy.LocalAddr, found map[netip.Addr]node.PodLink) ruleset.Links {
	closed := map[string][2]bool{}
	told := map[string]bool{}
	for _, local := range locals {
		if local.HostInterface != "" {
			told[local.HostInterface] = true
		}
	}
	note := func(name string, is [2]bool) {
		was := closed[name]
		closed[name] = [2]bool{was[0] || is[0], was[1] || is[1]}
	}
	var all ruleset.Links
	somewhere := map[string]bool{}
	for _, local := range locals {
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
			if !told[name] {
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
	// linksAgain is how often the links are looked for without news.
	linksAgain = time.Minute
	// linksPause is how long news are waited for that follow each other.
	linksPause = 200 * time.Millisecond
)

// follow has the links looked for again when they may have changed, until ctx is done: by
// a commit, whose goroutine has what was found.
func (l *links) follow(ctx context.Context, again func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.Changed():
		case <-time.After(linksAgain):
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(linksPause):
		}
		again()
	}
}

// lookForLinks looks anew where all addresses are, for the commit that follows.
func (e *Enforcer) lookForLinks() {
	if err := e.links.find(slices.Collect(maps.Keys(e.links.found))); err != nil {
		e.log.Error(err, "Cannot look after the pods' links; what was found before stays closed", "retryAfter", linksAgain.String())
	}
}
