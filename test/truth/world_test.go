package truth

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/random"
)

// setting is what a history has the same from its beginning to its end.
type setting struct {
	chained    bool   // another plugin hands out addresses, outside every range
	uidless    bool   // the runtime often does not tell the UID
	startTimes bool   // all pods have one start time; else none has any
	families   []bool // of the containers' addresses; true: IPv4
	ruleset    ruleset.Options
}

func newSetting(r *rand.Rand) setting {
	s := setting{
		chained: r.Intn(3) == 0, uidless: r.Intn(3) == 0, startTimes: r.Intn(2) == 0,
		families: [][]bool{{true}, {false}, {true, false}, {true, false}}[r.Intn(4)],
		ruleset:  ruleset.Options{AllowToNode: r.Intn(3) == 0, Reject: r.Intn(3) == 0},
	}
	if r.Intn(4) > 0 {
		s.ruleset.RevokedMark = 1 << 29
	}
	return s
}

// keeper is who must keep the promise: an agent, or what decides in it.
type keeper interface {
	// start begins with what the API server lists, stop ends; wipe takes away what a
	// reboot does, while the agent is stopped.
	start(listed []random.Event) error
	stop() error
	wipe() error
	// tell brings news from the API server.
	tell(random.Event) error
	// add begins an ADD, answered says whether it has succeeded by now, and giveUp
	// ends one that has not.
	add(*iface) error
	answered(x *iface, expected bool) (bool, error)
	giveUp(*iface) error
	// ended says that a sandbox is no more, of which the agent need not hear.
	ended(*iface) error
	// del and gc are DEL and GC. lose takes away the note of an attachment, while the
	// agent is stopped.
	del(*iface) error
	gc(valid []*iface) error
	lose(*iface) error
	// check makes sure that the promise is kept. close ends it all.
	check(*world) error
	close() error
}

// world is a node, as it really is.
type world struct {
	setting
	agent   keeper
	running bool // the agent
	// things are all objects that the API server has or may have: first the pods.
	things   []*thing
	pods     []*thing
	revision int
	uids     int
	// ifaces are all that were ever made, the oldest first.
	ifaces []*iface
	// ranges are the node's, as the agent was last told of any, by family, or as it
	// has found them in the table.
	ranges map[bool]netip.Prefix
	came   map[string]int // how often situations came up
}

// thing is an object of the API server: how it was, is, and is known to the agent.
type thing struct {
	name     string
	versions []version
	told     int // the version that the agent was told last; -1: none
}

type version struct {
	object   client.Object
	gone     bool
	revision int
}

// event is a version as the watch brings it.
func (v version) event() random.Event { return random.Event{Object: v.object, Delete: v.gone} }

// now is a thing as the API server has it; nil: there is none.
func (t *thing) now() client.Object { return t.at(len(t.versions) - 1) }

// known is a thing as the agent was told of it last; nil: there is none.
func (t *thing) known() client.Object { return t.at(t.told) }

func (t *thing) at(i int) client.Object {
	if i < 0 || t.versions[i].gone {
		return nil
	}
	return t.versions[i].object
}

// podNow and podKnown are a thing that is a pod.
func podNow(t *thing) *corev1.Pod {
	p, _ := t.now().(*corev1.Pod)
	return p
}

func podKnown(t *thing) *corev1.Pod {
	p, _ := t.known().(*corev1.Pod)
	return p
}

// state is what has become of an interface.
type state uint8

const (
	handed  state = iota // its ADD runs
	running              // its ADD was answered
	over                 // its sandbox is no more, and its addresses are free
)

// iface is an interface of a sandbox.
type iface struct {
	container, name string
	pod             *thing
	key             policy.Key
	uid             types.UID // whose it really is
	// said is the UID that the agent goes by: the one that the runtime has told, or if
	// it told none, the one that the agent knew when it answered.
	said  types.UID
	ips   []netip.Addr
	state state
	lost  bool // the agent has lost its note of it
	// noted: the agent was told of it, and has not been told that it is over.
	noted bool
}

func (x *iface) String() string { return fmt.Sprintf("%s %s of %s", x.container, x.name, x.key) }

const others = random.OtherNode

var (
	apps      = []string{"web", "db", "client"}
	startTime = metav1.NewTime(time.Unix(1700000000, 0))
)

// newWorld makes a node on which nothing runs yet, with an agent that knows all there is.
func newWorld(s setting, a keeper) (*world, error) {
	w := &world{setting: s, agent: a, ranges: map[bool]netip.Prefix{}, came: map[string]int{}}
	for i := range 7 {
		namespace := []string{"shop", "shop", "db"}[i%3]
		t := w.thing(fmt.Sprintf("%s/pod-%d", namespace, i))
		w.pods = append(w.pods, t)
	}
	for _, node := range random.Nodes() {
		if node.Name == random.Node && s.chained {
			node.Spec = corev1.NodeSpec{}
		}
		w.put(w.thing("Node "+node.Name), node)
	}
	for i, namespace := range []string{"shop", "db"} {
		w.put(w.thing("Namespace "+namespace), namespaceOf(namespace, teams[i]))
	}
	for _, f := range fences {
		w.put(w.thing("NetworkPolicy "+f.key.String()), f.object())
	}
	for _, node := range []string{random.Node, others, "no-node"} {
		w.thing("PodAddresses " + node)
	}
	return w, w.startAgent(0)
}

func (w *world) thing(name string) *thing {
	t := &thing{name: name, told: -1}
	w.things = append(w.things, t)
	return t
}

// named is a thing by its name.
func (w *world) named(name string) *thing {
	return w.things[slices.IndexFunc(w.things, func(t *thing) bool { return t.name == name })]
}

// put has the API server take an object in.
func (w *world) put(t *thing, object client.Object) {
	w.revision++
	t.versions = append(t.versions, version{object: object, revision: w.revision})
}

// remove has the API server forget an object.
func (w *world) remove(t *thing) {
	w.revision++
	t.versions = append(t.versions, version{object: t.now(), gone: true, revision: w.revision})
}

// startAgent starts the agent, with a list that is so many revisions old.
func (w *world) startAgent(behind int) error {
	var listed []random.Event
	for _, t := range w.things {
		t.told = -1
		for i, v := range t.versions {
			if v.revision <= w.revision-behind {
				t.told = i
			}
		}
		if t.known() != nil {
			listed = append(listed, t.versions[t.told].event())
			w.learnRanges(t)
		}
	}
	w.running = true
	return w.agent.start(listed)
}

// tell brings the agent the next n news of a thing at once: only the last is seen.
func (w *world) tell(t *thing, n int) error {
	t.told += n
	w.learnRanges(t)
	return w.agent.tell(t.versions[t.told].event())
}

// learnRanges notes the ranges that the agent has been told.
func (w *world) learnRanges(t *thing) {
	node, is := t.known().(*corev1.Node)
	if !is || node.Name != random.Node {
		return
	}
	for _, text := range node.Spec.PodCIDRs {
		prefix := netip.MustParsePrefix(text)
		w.ranges[prefix.Addr().Is4()] = prefix
	}
}

// inUse are the interfaces whose addresses a container may have.
func (w *world) inUse() []*iface {
	return w.those(func(x *iface) bool { return x.state != over })
}

// those are the interfaces that something holds for.
func (w *world) those(which func(*iface) bool) (those []*iface) {
	for _, x := range w.ifaces {
		if which(x) {
			those = append(those, x)
		}
	}
	return those
}

// of are a pod's interfaces in some state.
func (w *world) of(t *thing, s state) []*iface {
	return w.those(func(x *iface) bool { return x.pod == t && x.state == s })
}

// allocate hands out a free address of a family, of those that the container network
// gives: the lowest, or the one that became free last.
func (w *world) allocate(v4, second, recent bool) (netip.Addr, bool) {
	var free []netip.Addr
	for i := 2; i < 7; i++ {
		if ip := w.address(v4, second, i); !w.taken(ip) {
			free = append(free, ip)
		}
	}
	if len(free) == 0 {
		return netip.Addr{}, false
	}
	if recent {
		for _, x := range slices.Backward(w.ifaces) {
			for _, ip := range x.ips {
				if slices.Contains(free, ip) {
					return ip, true
				}
			}
		}
	}
	return free[0], true
}

// address is the i-th of a network: the pods' own, or a second one.
func (w *world) address(v4, second bool, i int) netip.Addr {
	form := map[bool]string{true: "10.244.1.%d", false: "fd00:244:0:1::%d"}[v4]
	switch {
	case second:
		form = map[bool]string{true: "172.16.0.%d", false: "fd00:172::%d"}[v4]
	case w.chained:
		form = map[bool]string{true: "192.168.9.%d", false: "fd00:9::%d"}[v4]
	}
	return netip.MustParseAddr(fmt.Sprintf(form, i))
}

func (w *world) taken(ip netip.Addr) bool {
	return slices.ContainsFunc(w.inUse(), func(x *iface) bool { return slices.Contains(x.ips, ip) })
}

// podOf is the pod of an interface as the agent knows it: the very one, on this node, and
// not on its network; nil if the agent does not know it.
func podOf(x *iface) *corev1.Pod {
	p := podKnown(x.pod)
	if p == nil || p.Spec.NodeName != random.Node || p.Spec.HostNetwork || x.said != "" && uidOf(p) != x.said {
		return nil
	}
	return p
}

// uidOf is the UID that kubelet and the runtime know a pod by: a static one's, which the
// API server has a mirror of, is not that of the object.
func uidOf(p *corev1.Pod) types.UID {
	if static, is := p.Annotations[corev1.MirrorPodAnnotationKey]; is {
		return types.UID(static)
	}
	return p.UID
}

// ended reports whether the API server says that a pod's containers have ended.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// answerable reports whether an ADD that runs must be answered.
func (w *world) answerable(x *iface) bool {
	p := podOf(x)
	return w.running && p != nil && !ended(p) && (x.said != "" || p.DeletionTimestamp == nil)
}

// settle answers the ADDs that can be.
func (w *world) settle() error {
	for _, x := range w.those(func(x *iface) bool { return x.state == handed }) {
		expected := w.answerable(x)
		is, err := w.agent.answered(x, expected)
		if err != nil {
			return err
		}
		if is != expected {
			return fmt.Errorf("the ADD of %s is answered: %t, expected: %t", x, is, expected)
		}
		if is {
			x.state = running
			if x.said == "" {
				x.said = uidOf(podOf(x))
				w.count("the runtime tells no UID", true)
				w.count("the agent takes an earlier pod of the name for a container's", x.said != x.uid)
			}
		}
	}
	return nil
}

// finish says that a sandbox is no more.
func (w *world) finish(x *iface) error {
	if x.state == over {
		return nil
	}
	x.state = over
	return w.agent.ended(x)
}

// count notes whether a situation has come up.
func (w *world) count(situation string, is bool) {
	w.came[situation] += map[bool]int{true: 1}[is]
}
