package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// maxResolutions is how many resolutions a node keeps. Beyond that, some go of the pod that has most, those first whose time is
// over first: what is not known is closed. In the kernel one takes some 200 bytes, in the agent some 550.
const maxResolutions = 100_000

// maxOfPod is how many it keeps of what one pod was told, so that no pod takes the place of others by asking for more and
// more names that a wildcard means.
const maxOfPod = 20_000

// maxLapsed is how many are remembered at most whose time is over.
const maxLapsed = 10_000

// resolutions are what domain names are resolved to on this node, and until when that counts.
type resolutions struct {
	until map[Resolution]time.Time // by the resolution without its time
	// ofPod are those of until by the pod's address.
	ofPod map[netip.Addr]map[Resolution]struct{}
	// byAddr are those of until and lapsed by who was told, and the address.
	byAddr map[toldOf][]string
	// changed have to be handed out; elapsed are those of them that have ended because their time is over, or there was no
	// room for them.
	changed, elapsed map[Resolution]struct{}
	// lapsed are the last ones that ended because their time was over, with that time, until they are resolved again. They
	// count for nothing, and tell why an address is denied.
	lapsed map[Resolution]time.Time
	// lapsedOf counts those of lapsed by the pod's address.
	lapsedOf map[netip.Addr]int
	// evicted counts those that there was no room for.
	evicted int
}

func newResolutions() resolutions {
	return resolutions{
		until: map[Resolution]time.Time{}, ofPod: map[netip.Addr]map[Resolution]struct{}{}, byAddr: map[toldOf][]string{},
		changed: map[Resolution]struct{}{}, elapsed: map[Resolution]struct{}{}, lapsed: map[Resolution]time.Time{},
		lapsedOf: map[netip.Addr]int{},
	}
}

// Resolved is what domain names were resolved to. Each counts until it expires; one that is known already counts until the
// later of both times. What a pod was told, at any of its addresses, counts for those
// of its addresses that are of the family; of a pod that is not on this node, or not known, it counts for nobody.
func Resolved(all []Resolution) Change { return resolvedChange{all} }

// Elapsed says what time it is: resolutions that expire now or before count no more for new connections.
func Elapsed(now time.Time) Change { return elapsedChange{now} }

type (
	resolvedChange struct{ all []Resolution }
	elapsedChange  struct{ now time.Time }
)

func (c resolvedChange) apply(m *Model) {
	for _, r := range c.all {
		for _, counts := range m.forPods(r) {
			m.resolutions.resolved(counts)
		}
	}
	for len(m.resolutions.until) > maxResolutions {
		of := m.resolutions.largest()
		m.resolutions.evict(of, len(of)-maxResolutions/100)
	}
}

func (c elapsedChange) apply(m *Model) {
	for r, until := range m.resolutions.until {
		if !until.After(c.now) {
			m.resolutions.end(r)
			m.resolutions.elapsed[r] = struct{}{}
			m.resolutions.lapse(r, until)
		}
	}
}

func (c resolvedChange) String() string { return fmt.Sprintf("%d resolutions", len(c.all)) }
func (c elapsedChange) String() string  { return "time passes" }

// forPods are the resolutions that count when a pod, or the agent, was told one: for those of the pod's addresses from which it
// reaches the other, as it may ask from an address of the other family. An address that several pods have counts only if it
// is the one that has asked.
func (m *Model) forPods(r Resolution) (counts []Resolution) {
	if !r.Pod.IsValid() {
		return []Resolution{r}
	}
	holders := m.holders(r.Pod)
	if len(holders) == 0 || slices.ContainsFunc(holders, func(pod *Pod) bool { return pod.Node != m.node }) {
		return nil
	}
	from := []netip.Addr{r.Pod}
	if len(holders) == 1 {
		from = m.here(holders[0])
	}
	asked := r.Pod
	for _, r.Pod = range from {
		if r.Pod.Is4() == r.Addr.Is4() && (r.Pod == asked || len(m.holders(r.Pod)) == 1) {
			counts = append(counts, r)
		}
	}
	return counts
}

// sameTime is by how much two times differ at least that are not the same: names' times are whole seconds, of which a cache
// of a resolver's may tell one less each time.
const sameTime = time.Second

// knows reports whether a resolution is known to count until it expires, or about as long.
func (rs *resolutions) knows(r Resolution) bool {
	until, known := rs.until[r.untimed()]
	return known && r.Expires.Before(until.Add(sameTime))
}

// resolved takes a resolution in.
func (rs *resolutions) resolved(r Resolution) {
	if rs.knows(r) {
		return
	}
	key := r.untimed()
	rs.until[key] = r.Expires
	rs.index(key)
	if rs.ofPod[key.Pod] == nil {
		rs.ofPod[key.Pod] = map[Resolution]struct{}{}
	}
	rs.ofPod[key.Pod][key] = struct{}{}
	rs.changed[key] = struct{}{}
	delete(rs.elapsed, key)
	rs.unlapse(key) // it stays in the index
	if of := rs.ofPod[key.Pod]; len(of) > maxOfPod {
		rs.evict(slices.Collect(maps.Keys(of)), maxOfPod-maxOfPod/10)
	}
}

// end ends a resolution.
func (rs *resolutions) end(key Resolution) {
	delete(rs.until, key)
	rs.unindex(key)
	if delete(rs.ofPod[key.Pod], key); len(rs.ofPod[key.Pod]) == 0 {
		delete(rs.ofPod, key.Pod)
	}
	rs.changed[key] = struct{}{}
}

// lapse notes that the time of a resolution is over. If there are too many, those that ended first are forgotten.
func (rs *resolutions) lapse(key Resolution, until time.Time) {
	rs.unlapse(key)
	rs.lapsed[key] = until
	rs.lapsedOf[key.Pod]++
	rs.index(key)
	if len(rs.lapsed) <= maxLapsed {
		return
	}
	keys := slices.Collect(maps.Keys(rs.lapsed))
	slices.SortFunc(keys, func(a, b Resolution) int { return rs.lapsed[a].Compare(rs.lapsed[b]) })
	for _, first := range keys[:maxLapsed/10] {
		rs.unlapse(first)
		rs.unindex(first)
	}
}

// unlapse forgets one that has lapsed, if it is one.
func (rs *resolutions) unlapse(key Resolution) {
	if _, is := rs.lapsed[key]; !is {
		return
	}
	delete(rs.lapsed, key)
	if rs.lapsedOf[key.Pod]--; rs.lapsedOf[key.Pod] == 0 {
		delete(rs.lapsedOf, key.Pod)
	}
}

// toldOf is an address of which a pod was told, or, of the zero Addr, the agent.
type toldOf struct{ pod, addr netip.Addr }

// index puts a resolution into the index.
func (rs *resolutions) index(key Resolution) {
	if of := (toldOf{key.Pod, key.Addr}); !slices.Contains(rs.byAddr[of], key.Name) {
		rs.byAddr[of] = append(rs.byAddr[of], key.Name)
	}
}

// unindex takes a resolution that is neither known nor lapsed any more out of the index.
func (rs *resolutions) unindex(key Resolution) {
	of := toldOf{key.Pod, key.Addr}
	names := slices.DeleteFunc(rs.byAddr[of], func(name string) bool { return name == key.Name })
	if rs.byAddr[of] = names; len(names) == 0 {
		delete(rs.byAddr, of)
	}
}

// largest are those of the pod that has most, or the agent's: nobody takes others' room.
func (rs *resolutions) largest() []Resolution {
	var most map[Resolution]struct{}
	for _, of := range rs.ofPod {
		if len(of) > len(most) {
			most = of
		}
	}
	return slices.Collect(maps.Keys(most))
}

// evict ends some of those of a pod, so that as many are left: those whose time is over last.
func (rs *resolutions) evict(keys []Resolution, left int) {
	slices.SortFunc(keys, func(a, b Resolution) int { return cmp.Or(rs.until[a].Compare(rs.until[b]), CompareResolutions(a, b)) })
	for _, key := range keys[:max(0, len(keys)-max(left, 0))] {
		rs.end(key)
		rs.elapsed[key] = struct{}{}
		rs.evicted++
	}
}

// forgetOf ends what was told at an address that another pod has now, or nobody: whoever has it has to ask by itself.
func (rs *resolutions) forgetOf(addr netip.Addr) {
	for _, key := range slices.Collect(maps.Keys(rs.ofPod[addr])) {
		rs.end(key)
	}
	for key := range rs.lapsed {
		if rs.lapsedOf[addr] == 0 {
			break // as it is for nearly all
		}
		if key.Pod == addr {
			rs.unlapse(key)
			rs.unindex(key)
		}
	}
}

// take takes what has changed.
func (rs *resolutions) take(d *Delta) {
	d.Resolutions, d.Elapsed = make(map[Resolution]time.Time, len(rs.changed)), map[Resolution]struct{}{}
	for key := range rs.changed {
		d.Resolutions[key] = rs.until[key]
	}
	for key := range rs.elapsed {
		d.Elapsed[key] = struct{}{}
	}
	clear(rs.changed)
	clear(rs.elapsed)
}

// Resolutions are what domain names are resolved to on this node, in order.
func (m *Model) Resolutions() []Resolution {
	all := timed(m.resolutions.until)
	slices.SortFunc(all, CompareResolutions)
	return all
}

// KnownNames are the Resolutions, and the last ones whose time is over and that have not been resolved again. They are in no
// order: to put 95,000 in order takes ten times as long.
func (m *Model) KnownNames() (counting, lapsed []Resolution) {
	return timed(m.resolutions.until), timed(m.resolutions.lapsed)
}

// ResolutionsTo are those of KnownNames by which a pod, by the address that it sends from, or the agent was told of an address,
// in order.
func (m *Model) ResolutionsTo(pod, addr netip.Addr) (counting, lapsed []Resolution) {
	rs := &m.resolutions
	for _, by := range []netip.Addr{{}, pod} {
		for _, name := range rs.byAddr[toldOf{by, addr}] {
			r := Resolution{Name: name, Addr: addr, Pod: by}
			if until, counts := rs.until[r]; counts {
				r.Expires = until
				counting = append(counting, r)
			} else {
				r.Expires = rs.lapsed[r]
				lapsed = append(lapsed, r)
			}
		}
	}
	slices.SortFunc(counting, CompareResolutions)
	slices.SortFunc(lapsed, CompareResolutions)
	return counting, lapsed
}

// timed are resolutions with their times, in no order.
func timed(until map[Resolution]time.Time) []Resolution {
	all := make([]Resolution, 0, len(until))
	for key, at := range until {
		key.Expires = at
		all = append(all, key)
	}
	return all
}

// Resolved is how many names are resolved to some address, and to how many, counted for each pod that was told so.
func (m *Model) Resolved() (names, addresses int) {
	all := map[string]struct{}{}
	for key := range m.resolutions.until {
		all[key.Name] = struct{}{}
	}
	return len(all), len(m.resolutions.until)
}

// Evicted is how many resolutions there was no room for so far.
func (m *Model) Evicted() int { return m.resolutions.evicted }

// NextElapsed is when the next resolution expires; zero: there is none.
func (m *Model) NextElapsed() (next time.Time) {
	for _, until := range m.resolutions.until {
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	return next
}

// CompareResolutions puts resolutions into order: by name, address and pod.
func CompareResolutions(a, b Resolution) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr), a.Pod.Compare(b.Pod))
}

// SubjectsAt are the pods of this node that may have an address, in order.
func (m *Model) SubjectsAt(ip netip.Addr) (keys []Key) {
	for _, pod := range m.holders(ip) {
		if pod.Node == m.node {
			keys = append(keys, pod.Key)
		}
	}
	return sortedKeys(keys)
}

// Namers are the addresses of this node's pods that policies with domain names are about, with these names, in order.
func (m *Model) Namers() map[netip.Addr][]DomainName {
	namers := map[netip.Addr][]DomainName{}
	for _, s := range m.clusterPolicies() {
		names := s.domains()
		if len(names) == 0 || s.subjects == 0 {
			continue
		}
		for _, ns := range m.namespaces {
			for key, by := range ns.subjects {
				if !slices.Contains(by, s) {
					continue
				}
				for _, ip := range m.here(m.pod(key)) {
					namers[ip] = append(namers[ip], names...)
				}
			}
		}
	}
	for ip, names := range namers {
		slices.Sort(names)
		namers[ip] = slices.Compact(names)
	}
	return namers
}

// domains are the domain names of a policy's rules.
func (p *Policy) domains() (names []DomainName) {
	for _, rule := range p.Rules[Egress] {
		names = append(names, rule.Domains...)
	}
	return names
}
