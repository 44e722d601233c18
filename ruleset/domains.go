package ruleset

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// The domain names of a rule mean the addresses that they were resolved to: for each pod those that the pod was told, and,
// for names that are no wildcards, those that the agent was told. In each family there is a set for each of both, named by
// the names. Its elements have the time until which the answer counts, so that the kernel closes what is over without an
// agent.

// domains is what a set of addresses of domain names is of.
type domains struct {
	names  []policy.DomainName
	family family
	// agents: it has the addresses that the agent was told, not pairs of a pod and what that was told.
	agents bool
}

// domainSetsOf are the sets of a family for the names of a rule; none if there are no names.
func domainSetsOf(f family, names []policy.DomainName) (sets []*nft.Set) {
	if len(names) == 0 {
		return nil
	}
	comment := "domain names " + string(names[0])
	if n := len(names) - 1; n > 0 {
		comment += fmt.Sprintf(" and %d more", n)
	}
	add := func(kind, whom string, t nft.SetType, agents bool) {
		sets = append(sets, &nft.Set{
			Name: fmt.Sprintf("%s-%d-%s", kind, f, hash(fmt.Sprintf("%q", names))), Type: t, Comment: nft.Comment(comment + whom),
			Timed: map[nft.Element]nft.Timed{}, Life: nft.ByContent, Of: &domains{names, f, agents},
		})
	}
	add(domainsKind, ", as pods were told", nft.Of(f.datatype(), f.datatype()), false)
	if slices.ContainsFunc(names, func(n policy.DomainName) bool { return !n.Wildcard() }) {
		add(resolvedKind, ", as the agent was told", f.addr(), true)
	}
	return sets
}

// domainMatches are the matches of a rule's domain names, which are for egress, in a family.
func domainMatches(f family, names []policy.DomainName) (matches []peerMatch, sets []*nft.Set) {
	sets = domainSetsOf(f, names)
	for _, set := range sets {
		fields := []nft.Field{f.src(), f.dst()}
		if set.Of.(*domains).agents {
			fields = fields[1:]
		}
		matches = append(matches, peerMatch{[]nft.Match{nft.Lookup{Fields: fields, Set: set.Name}}, f})
	}
	return matches, sets
}

// DomainSet reports whether a set, by its name, is one of addresses of domain names, and its type.
func DomainSet(name string) (t nft.SetType, is bool) {
	for _, f := range families {
		switch {
		case strings.HasPrefix(name, fmt.Sprintf("%s-%d-", domainsKind, f)):
			return nft.Of(f.datatype(), f.datatype()), true
		case strings.HasPrefix(name, fmt.Sprintf("%s-%d-", resolvedKind, f)):
			return f.addr(), true
		}
	}
	return t, false
}

// Remembered are the resolutions that the kernel's sets of addresses of domain names still have from an agent before, each
// once. Those of pods count only if holders, who have an address now, are those to whom it was told.
func Remembered(sets map[string][]nft.TimedElement, holders func(netip.Addr) []policy.Key) (all []policy.Resolution) {
	until := map[policy.Resolution]time.Time{}
	for name, elements := range sets {
		t, is := DomainSet(name)
		if !is {
			continue
		}
		for _, e := range elements {
			r := policy.Resolution{Name: e.Comment, Addr: addrOf(e.Addr, t)}
			if t.Concatenated() {
				r.Pod, r.Addr = r.Addr, addrOf(e.LastAddr, t)
				var told string
				told, r.Name, _ = strings.Cut(e.Comment, " ")
				if keys := holders(r.Pod); len(keys) == 0 || told != holderID(keys) {
					continue
				}
			}
			if strings.Contains(r.Name, "..") { // it was too long for a comment
				continue
			}
			if e.Expires.After(until[r]) {
				until[r] = e.Expires
			}
		}
	}
	for r, expires := range until {
		r.Expires = expires
		all = append(all, r)
	}
	slices.SortFunc(all, policy.CompareResolutions)
	return all
}

// addrOf is an address of an element of a set with this type.
func addrOf(addr [16]byte, t nft.SetType) netip.Addr {
	for datatype := range t.Datatypes() {
		if datatype == nft.IPv4Addr {
			return netip.AddrFrom4([4]byte(addr[:4]))
		}
	}
	return netip.AddrFrom16(addr)
}

// domainsKind and resolvedKind begin the names of sets of what pods were told, and of what the agent was.
const domainsKind, resolvedKind = "domains", "resolved"

// told is who was told of an address; the zero pod is the agent.
type told struct{ pod, addr netip.Addr }

// element is the element of the set for what somebody was told, if the set is of such.
func (x *domains) element(t told) (e nft.Element, of bool) {
	switch {
	case !x.family.has(t.addr) || x.agents == t.pod.IsValid():
		return e, false
	case x.agents:
		return nft.AddrElement(t.addr), true
	}
	return nft.AddrsElement(t.pod, t.addr), x.family.has(t.pod)
}

// means reports whether a name is one of the set's.
func (x *domains) means(name string) bool {
	return slices.ContainsFunc(x.names, func(n policy.DomainName) bool { return n.Matches(name) && !(x.agents && n.Wildcard()) })
}

// timed is what the set's element has for what somebody was told: the name of those of the set that counts for longest.
func (t *Table) timed(x *domains, of told) (nft.Timed, bool) {
	best, found := "", false
	for _, name := range slices.Sorted(maps.Keys(t.answers[of])) {
		if x.means(name) && (!found || t.answers[of][name].After(t.answers[of][best])) {
			best, found = name, true
		}
	}
	if !found {
		return nft.Timed{}, false
	}
	return nft.Timed{Expires: t.answers[of][best], Comment: t.answerComment(best, of.pod)}, true
}

// answerComment is what the kernel keeps of an answer besides the address: the name and, for a pod, a hash of the pod, by
// which the next agent knows whether the address is still the same pod's.
func (t *Table) answerComment(name string, pod netip.Addr) string {
	if !pod.IsValid() {
		return nft.Comment(name)
	}
	return nft.Comment(holderID(t.subjects[pod]) + " " + name)
}

// holderID tells pods apart that have the same address, one after another.
func holderID(keys []policy.Key) string {
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = key.String()
	}
	return hash(strings.Join(texts, " "))[:8]
}

// change is what somebody was told of an address that has changed. elapsed: its time is over.
type change struct {
	told
	elapsed bool
}

// resolutions takes in what has changed of the resolutions, and brings the sets up to date. It comes after the subjects, as
// it asks who has an address.
func (u *update) resolutions(d policy.Delta) {
	changed := map[change]struct{}{}
	for r, until := range d.Resolutions {
		of := told{r.Pod, r.Addr}
		if u.answers[of] == nil {
			u.answers[of] = map[string]time.Time{}
		}
		if delete(u.answers[of], r.Name); !until.IsZero() {
			u.answers[of][r.Name] = until
		} else if len(u.answers[of]) == 0 {
			delete(u.answers, of)
		}
		_, elapsed := d.Elapsed[r]
		changed[change{of, elapsed}] = struct{}{}
	}
	u.otherHolders(changed)
	order := slices.SortedFunc(maps.Keys(changed), func(a, b change) int {
		return cmp.Or(a.pod.Compare(b.pod), a.addr.Compare(b.addr))
	})
	for _, name := range slices.Sorted(maps.Keys(u.domains)) {
		u.retime(u.domains[name], order)
	}
	for _, set := range u.newDomains {
		u.domains[set.Name] = set
		u.fill(set)
		u.newSets = append(u.newSets, set.AddTimed()...)
	}
}

// otherHolders adds what was told to addresses that others have now, as its comment says who was told. Whoever has lost the
// address has no open flows of it.
func (u *update) otherHolders(changed map[change]struct{}) {
	others := map[netip.Addr]bool{}
	for addr, was := range u.held {
		if !slices.Equal(was, u.subjects[addr]) {
			others[addr] = true
			u.forgetLapsed(addr)
		}
	}
	if len(others) == 0 {
		return
	}
	for c := range changed {
		if others[c.pod] && c.elapsed { // not of whoever has the address now
			delete(changed, c)
			changed[change{told: c.told}] = struct{}{}
		}
	}
	for of := range u.answers {
		if others[of.pod] {
			changed[change{told: of}] = struct{}{}
		}
	}
}

// retime brings what has changed into a set.
func (u *update) retime(set *nft.Set, changed []change) {
	x := set.Of.(*domains)
	add := nft.AddTimed{Set: set.Name, Type: set.Type}
	remove := nft.DeleteTimed{Set: set.Name, Type: set.Type}
	for _, c := range changed {
		e, of := x.element(c.told)
		if !of {
			continue
		}
		was, had := set.Timed[e]
		is, has := u.timed(x, c.told)
		switch {
		case has && (!had || is != was):
			set.Timed[e] = is
			delete(set.Lapsed, e)
			add.Elements = append(add.Elements, nft.TimedElement{Element: e, Timed: is})
		case had && !has:
			delete(set.Timed, e)
			if c.elapsed {
				set.Lapse(e)
			}
			remove.Elements = append(remove.Elements, e)
		}
	}
	if len(add.Elements) > 0 {
		u.newSets = append(u.newSets, add)
	}
	if len(remove.Elements) > 0 {
		u.oldMembers = append(u.oldMembers, remove)
	}
}

// fill puts into a set that is new what its names were resolved to.
func (t *Table) fill(set *nft.Set) {
	x := set.Of.(*domains)
	for of := range t.answers {
		if e, is := x.element(of); is {
			if timed, has := t.timed(x, of); has {
				set.Timed[e] = timed
			}
		}
	}
}

// forgetLapsed forgets what an address was told whose time is over, as no connection of it is open any more that counts.
func (t *Table) forgetLapsed(addr netip.Addr) {
	of := nft.AddrElement(addr).Addr
	for _, set := range t.domains {
		maps.DeleteFunc(set.Lapsed, func(e nft.Element, _ struct{}) bool { return !set.Of.(*domains).agents && e.Addr == of })
	}
}

// HasDomains reports whether a rule of a policy names domains.
func (t *Table) HasDomains() bool { return len(t.domains) > 0 }

// Inherit takes over from the table before, in place of which this one was built, which connections are open by answers whose
// time is over.
func (t *Table) Inherit(before *Table) {
	for name, set := range t.domains {
		had := before.domains[name]
		if had == nil {
			continue
		}
		x := set.Of.(*domains)
		lapse := func(e nft.Element) {
			pod := addrOf(e.Addr, set.Type)
			if _, has := set.Timed[e]; !has && (x.agents || slices.Equal(t.subjects[pod], before.subjects[pod])) {
				set.Lapse(e)
			}
		}
		for e := range had.Lapsed {
			lapse(e)
		}
		for e := range had.Timed {
			lapse(e)
		}
	}
}

// Opened notes that a connection is open that was judged as one from src to dst before this agent came. If a rule would let
// it pass by some domain name, it goes on, although nobody knows any more who was told what.
func (t *Table) Opened(src, dst netip.Addr) {
	if len(t.subjects[src]) == 0 {
		return
	}
	for _, set := range t.domains {
		if e, of := set.Of.(*domains).element(told{src, dst}); of {
			if _, has := set.Timed[e]; !has {
				set.Lapse(e)
			}
		}
	}
}
