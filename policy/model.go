package policy

import (
	"net/netip"
	"reflect"
	"slices"
)

// Model is the cluster as one node's agent knows it. Apply takes changes in; each costs what it
// touches, not what the cluster holds. Take hands out what follows from them. In which order
// objects change does not matter, only how they end up: the deltas taken add up to what Compile
// says of the same objects.
//
// A Model is for one goroutine at a time.
type Model struct {
	node string
	// synced: all objects that existed at the start have been taken in.
	synced bool
	// podCIDRs are this node's ranges, as last known (see keepRanges). There are none if
	// ignored is set (see IgnorePodCIDRs).
	podCIDRs []netip.Prefix
	ignored  bool
	nodes    map[string]Node
	// nodeNames are the nodes' names by their addresses, and gateways by those of their pods' gateways; nil: to be
	// made anew when somebody asks.
	nodeNames, gateways map[netip.Addr]string
	namespaces          map[string]*namespace
	// made are the attachments that the CNI plugin has made, and attachments the same by
	// pod. announced is what the agents of other nodes have announced, by node and pod.
	made        map[AttachmentKey]Attachment
	attachments map[Key][]Attachment
	announced   map[string]map[Key][]announcement
	// shownIPs is what the API shows of the pods that have other addresses by these.
	shownIPs map[Key][]netip.Addr
	// quarantined has, for each policy that is quarantined, the reason; over are those of them
	// that the budget has quarantined.
	quarantined map[Key]string
	over        map[Key]overspent
	// news are the policies that the budget has quarantined or released.
	news []Key
	// budget is what one namespace's policies may take; objects is how many sets and rules all
	// active policies take (see budget.go).
	budget, objects int
	// turn is the turn of the namespace that was served last (see turns).
	turn int
	// removalsPending: a Take had no room to remove all that no policy names any more.
	removalsPending bool
	// staged are the policies that are staged. inForce: in this model they are in force, for the pods of this
	// node that one of them is about, which are rehearsed (see staged.go).
	staged, rehearsed map[Key]struct{}
	inForce           bool
	// revision counts the changes of policies, namespaces and nodes (see Ends).
	revision uint64
	// found is the memory that meant puts the addresses into.
	found []netip.Addr
	// handed are the policies as they were handed out, handedSubjects the subjects.
	handed         map[Key]*Policy
	handedSubjects map[Key]*Subject
	// closedMeanwhile are the subjects that were new, and handed out closed, while a
	// ClusterNetworkPolicy that is about them waits.
	closedMeanwhile map[Key]struct{}

	owners
	doubts
	members
	resolutions resolutions
	dirty
}

// namespace is what is known of a namespace, whether or not the object itself
// has been seen.
type namespace struct {
	object   *Namespace      // nil: not seen, or deleted
	pods     map[string]*Pod // by name
	policies map[Key]*selecting
	// subjects are the pods of this node and the policies that select them.
	subjects map[Key][]*selecting
	// elements and objects are what the active policies take. elements counts the members of
	// what they name, and their ranges of addresses and ports; objects counts sets and rules.
	elements, objects int
	// looked: relax has looked at it.
	looked bool
	// turn counts how much was handed out for it of what is handed out bit by bit (see
	// Model.turns).
	turn int
}

// dirty is what Take has to look at.
type dirty struct {
	dirtyPodCIDRs    bool
	dirtyCluster     bool
	dirtyNodes       map[string]struct{}
	dirtyAttachments map[AttachmentKey]struct{}
	dirtySubjects    map[Key]struct{}
	dirtyPolicies    map[Key]struct{}
}

// NewModel returns the model of an empty cluster for a node's agent.
func NewModel(node string) *Model {
	return &Model{
		node:        node,
		nodes:       map[string]Node{},
		namespaces:  map[string]*namespace{},
		made:        map[AttachmentKey]Attachment{},
		attachments: map[Key][]Attachment{},
		announced:   map[string]map[Key][]announcement{},
		shownIPs:    map[Key][]netip.Addr{},
		quarantined: map[Key]string{},
		over:        map[Key]overspent{},
		budget:      DefaultBudget,
		staged:      map[Key]struct{}{}, rehearsed: map[Key]struct{}{},
		handed: map[Key]*Policy{}, handedSubjects: map[Key]*Subject{}, closedMeanwhile: map[Key]struct{}{},
		owners:  newOwners(),
		doubts:  newDoubts(),
		members: newMembers(), resolutions: newResolutions(),
		dirty: newDirty(),
	}
}

func newDirty() dirty {
	return dirty{
		dirtyNodes: map[string]struct{}{}, dirtyAttachments: map[AttachmentKey]struct{}{},
		dirtySubjects: map[Key]struct{}{}, dirtyPolicies: map[Key]struct{}{},
	}
}

// setNode takes a node in as it is now.
func (m *Model) setNode(n Node) {
	before := m.nodes[n.Name]
	if reflect.DeepEqual(n, before) {
		return
	}
	m.revision++
	m.dirtyCluster = true
	m.dirtyNodes[n.Name] = struct{}{}
	m.nodeNames, m.gateways = nil, nil
	was, is := before.listed(), n.listed()
	m.change(united(was, is), func() {
		m.nodes[n.Name] = n
		m.listing(n.Name, was, is)
	})
	if n.Name != m.node {
		m.relocateAnnounced(n.Name)
		return
	}
	if !m.ignored {
		m.setPodCIDRs(keepRanges(n.PodCIDRs, m.podCIDRs))
	}
}

// IgnorePodCIDRs makes the model ignore the node's pod ranges. It is for clusters where pods get
// their addresses from elsewhere, so that an address in this node's range may belong to a pod of
// another node. It must be called first.
func (m *Model) IgnorePodCIDRs() { m.ignored = true }

// RememberPodCIDRs takes in this node's ranges as an earlier agent knew them. They count
// until the Node shows others.
func (m *Model) RememberPodCIDRs(ranges []netip.Prefix) {
	if m.ignored {
		return
	}
	m.setPodCIDRs(keepRanges(m.podCIDRs, ranges))
}

func (m *Model) setPodCIDRs(ranges []netip.Prefix) {
	if slices.Equal(ranges, m.podCIDRs) {
		return
	}
	m.dirtyPodCIDRs, m.dirtyCluster = true, true
	var ips []netip.Addr // those in the ranges, as they are or as they were
	for ip := range m.claims {
		if contains(ranges, ip) || contains(m.podCIDRs, ip) {
			ips = append(ips, ip)
		}
	}
	m.change(ips, func() { m.podCIDRs = ranges })
}

// deleteNode forgets a node.
func (m *Model) deleteNode(name string) {
	if _, known := m.nodes[name]; known {
		m.setNode(Node{Name: name})
		delete(m.nodes, name)
		m.relocateAnnounced(name)
		m.dirtyNodes[name] = struct{}{}
	}
}

// namespaceChanged takes a namespace in as it is now; nil: it is gone.
func (m *Model) namespaceChanged(name string, object *Namespace) {
	ns := m.in(name)
	before := ns.object
	for _, g := range m.peers {
		if g.fresh || g.sameNamespace(name, before, object) {
			continue
		}
		seen := map[netip.Addr]struct{}{} // addresses that several pods of the namespace have
		for _, pod := range ns.pods {
			if !g.matches(pod, before) && !g.matches(pod, object) {
				continue
			}
			for _, ip := range pod.IPs {
				m.namespaceMoved(g, ip, pod, name, before, object, seen)
			}
		}
	}
	ns.object = object
	m.restack(ns, name, before)
	if (before == nil) != (object == nil) {
		for _, pod := range ns.pods {
			for _, ip := range pod.IPs {
				m.noteDoubt(ip, m.holders(ip))
			}
		}
	}
	m.dropIfEmpty(name)
}

// namespaceMoved notes whether an address of a pod came into a selector or went out of it
// because the pod's namespace changed from before to after.
func (m *Model) namespaceMoved(g *peers, ip netip.Addr, pod *Pod, name string, before, after *Namespace, seen map[netip.Addr]struct{}) {
	holders := m.holders(ip)
	if !slices.Contains(holders, pod) {
		return
	}
	if len(holders) > 1 {
		if _, done := seen[ip]; done {
			return
		}
		seen[ip] = struct{}{}
	}
	in := func(object *Namespace) bool {
		return meansAll(g.matchers, holders, func(p *Pod) *Namespace {
			of := object
			if p.Namespace != name {
				of = m.in(p.Namespace).object
			}
			return of
		})
	}
	if was, is := in(before), in(after); was != is {
		m.toggle(g, ip, is)
	}
}

// setPod takes a pod in as it is now, in place of the one of that name. The
// model keeps p, which must not change any more.
func (m *Model) setPod(p *Pod) {
	delete(m.shownIPs, p.Key)
	shown := p.IPs
	if p = m.locate(p); p.located {
		m.shownIPs[p.Key] = shown
	}
	old := m.pod(p.Key)
	ns := m.in(p.Namespace)
	if old != nil && old.equal(p) {
		// Nothing is new, but whoever made p keeps it too: hold that one, not both.
		ns.pods[p.Name] = p
		for _, ip := range p.IPs {
			claims := slices.Clone(m.claims[ip])
			claims[slices.Index(claims, old)] = p
			m.claims[ip] = claims
		}
		return
	}
	m.change(m.concerned(p.Key, old, p), func() {
		m.disclaimAll(old)
		ns.pods[p.Name] = p
		for _, ip := range p.IPs {
			m.claim(ip, p)
		}
	})
	m.refreshSubject(p.Key)
}

// deletePod forgets a pod: it is gone, or policy does not see it any more.
func (m *Model) deletePod(key Key) {
	old := m.pod(key)
	if old == nil {
		return
	}
	m.change(m.concerned(key, old, nil), func() {
		m.disclaimAll(old)
		delete(m.shownIPs, key)
		delete(m.in(key.Namespace).pods, key.Name)
	})
	m.refreshSubject(key)
	m.dropIfEmpty(key.Namespace)
}

// concerned are the addresses whose owner may change when a pod changes from old to now: those of
// old and of now, and those of the attachments that were made for a pod of that name.
func (m *Model) concerned(key Key, old, now *Pod) (ips []netip.Addr) {
	for _, pod := range []*Pod{old, now} {
		if pod != nil {
			ips = united(ips, pod.IPs)
		}
	}
	for _, a := range m.attachments[key] {
		ips = united(ips, sortedAddrs(a.IPs))
	}
	return ips
}

// pod returns the pod of that name; nil if there is none.
func (m *Model) pod(key Key) *Pod {
	if ns := m.namespaces[key.Namespace]; ns != nil {
		return ns.pods[key.Name]
	}
	return nil
}

func (m *Model) disclaimAll(pod *Pod) {
	if pod != nil {
		for _, ip := range pod.IPs {
			m.disclaim(ip, pod)
		}
	}
}

// in returns what is known of a namespace.
func (m *Model) in(name string) *namespace {
	ns := m.namespaces[name]
	if ns == nil {
		ns = &namespace{pods: map[string]*Pod{}, policies: map[Key]*selecting{}, subjects: map[Key][]*selecting{}}
		m.namespaces[name] = ns
	}
	return ns
}

func (m *Model) dropIfEmpty(name string) {
	if ns := m.namespaces[name]; ns.object == nil && len(ns.pods)+len(ns.policies)+len(ns.subjects) == 0 {
		delete(m.namespaces, name)
	}
}
