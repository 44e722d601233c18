package truth

import (
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/test/random"
)

// step is a step of a history: of what kind, and what it is about. The numbers choose
// among what there is when it is taken, so that a step may be left out before it.
type step struct {
	kind    int
	a, b, c int
}

// kind is a kind of step. It is taken by do, which says in plain words what happened; it
// is not ok, and nothing has, if there was nothing for it to happen to.
type kind struct {
	name  string
	often int
	do    func(w *world, s step) (text string, ok bool, err error)
}

var kinds = []kind{
	{"the API server gets a pod", 12, (*world).schedule},
	{"a pod terminates", 4, (*world).terminate},
	{"the API server forgets a pod", 6, (*world).forgetPod},
	{"a pod's labels or ports change", 4, (*world).relabel},
	{"kubelet reports", 24, (*world).report},
	{"another node's pod reports", 5, (*world).reportForeign},
	{"a node's agent announces", 6, (*world).announce},
	{"the agent hears", 50, (*world).hear},
	{"the agent hears again what it knows", 2, (*world).hearAgain},
	{"a sandbox is made", 30, (*world).makeSandbox},
	{"a second interface is made", 4, (*world).makeSecond},
	{"kubelet does not wait any longer for an ADD", 3, (*world).giveUp},
	{"a sandbox ends, with its DEL", 4, (*world).endSandbox},
	{"a sandbox ends, its DEL is lost", 5, (*world).loseSandbox},
	{"a DEL comes late, or again", 3, (*world).lateDel},
	{"a GC", 1, (*world).collect},
	{"the runtime restarts", 2, (*world).restartRuntime},
	{"the node reboots", 1, (*world).reboot},
	{"the agent stops", 2, (*world).stopAgent},
	{"the agent starts", 30, (*world).beginAgent},
	{"the agent starts, and has lost a note", 2, (*world).loseNote},
	{"the Node changes", 3, (*world).changeNode},
	{"a namespace changes", 2, (*world).changeNamespace},
	{"a policy comes or goes", 3, (*world).changePolicy},
}

// newStep draws a step.
func newStep(r *rand.Rand) step {
	total := 0
	for _, k := range kinds {
		total += k.often
	}
	s := step{a: r.Intn(1 << 16), b: r.Intn(1 << 16), c: r.Intn(1 << 16)}
	at := r.Intn(total)
	for at >= kinds[s.kind].often {
		at -= kinds[s.kind].often
		s.kind++
	}
	return s
}

// take takes a step, and answers the ADDs that can be answered then.
func (w *world) take(s step) (text string, ok bool, err error) {
	text, ok, err = kinds[s.kind].do(w, s)
	if ok && err == nil {
		w.count(kinds[s.kind].name, true)
		w.look()
		err = w.settle()
	}
	return text, ok, err
}

// choose is the n-th of some, round and round; false if there are none.
func choose[T any](some []T, n int) (one T, ok bool) {
	if len(some) == 0 {
		return one, false
	}
	return some[n%len(some)], true
}

func (w *world) pod(s step) *thing { return w.pods[s.a%len(w.pods)] }

func nothing() (string, bool, error) { return "", false, nil }

// schedule makes a pod, here or elsewhere.
func (w *world) schedule(s step) (string, bool, error) {
	t := w.pod(s)
	if podNow(t) != nil {
		return nothing()
	}
	w.uids++
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: t.key().Namespace, Name: t.key().Name, UID: types.UID(fmt.Sprint("uid-", w.uids)),
			Labels: map[string]string{"app": apps[s.b%len(apps)]},
		},
		Spec:   corev1.PodSpec{NodeName: random.Node, Containers: []corev1.Container{{Name: "main", Ports: portsOf(s.c)}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	if s.b/8%4 == 0 {
		p.Spec.NodeName = others
	}
	if s.b/32%5 == 0 && p.Spec.NodeName == random.Node { // kubelet has it from a file
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: fmt.Sprint("static-", w.uids)}
	}
	if before := t.before(); before != nil && before.Annotations != nil { // and makes its mirror anew
		p.Spec.NodeName, p.Annotations = random.Node, before.Annotations
		w.count("a static pod's mirror is made anew while its container runs", len(w.of(t, running)) > 0)
	}
	if w.startTimes {
		p.Status.StartTime = &startTime
	}
	if p.Spec.HostNetwork = s.b/512%8 == 0; p.Spec.HostNetwork {
		w.count("a pod on the host's network takes the name of a container's", len(w.of(t, running)) > 0)
	}
	w.put(t, p)
	return fmt.Sprintf("pod %s, UID %s, app=%s, ports %v is to run on %s, on the host's network: %t", t.name, uidOf(p), p.Labels["app"], numbersOf(p), p.Spec.NodeName, p.Spec.HostNetwork), true, nil
}

// before is the pod that a name had last.
func (t *thing) before() *corev1.Pod {
	if len(t.versions) == 0 {
		return nil
	}
	p, _ := t.versions[len(t.versions)-1].object.(*corev1.Pod)
	return p
}

// key is a pod's.
func (t *thing) key() types.NamespacedName {
	for i := range t.name {
		if t.name[i] == '/' {
			return key(t.name[:i], t.name[i+1:])
		}
	}
	panic("no pod: " + t.name)
}

func portsOf(n int) []corev1.ContainerPort {
	if n%3 == 0 {
		return nil
	}
	return []corev1.ContainerPort{{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: int32(numbers[n%2])}}
}

func numbersOf(p *corev1.Pod) (ports []int32) {
	for _, port := range p.Spec.Containers[0].Ports {
		ports = append(ports, port.ContainerPort)
	}
	return ports
}

// change changes a pod in the API server.
func (w *world) change(t *thing, how func(*corev1.Pod)) {
	p := podNow(t).DeepCopy()
	how(p)
	w.put(t, p)
}

func (w *world) terminate(s step) (string, bool, error) {
	t := w.pod(s)
	if p := podNow(t); p == nil || p.DeletionTimestamp != nil {
		return nothing()
	}
	w.change(t, func(p *corev1.Pod) { p.DeletionTimestamp = &startTime })
	return fmt.Sprintf("pod %s is to terminate", t.name), true, nil
}

func (w *world) forgetPod(s step) (string, bool, error) {
	t := w.pod(s)
	p := podNow(t)
	if p == nil {
		return nothing()
	}
	w.remove(t)
	runs := slices.ContainsFunc(w.of(t, running), func(x *iface) bool { return x.uid == uidOf(p) })
	w.count("a pod is deleted by force while its container runs", runs)
	return fmt.Sprintf("the API server forgets pod %s (UID %s)", t.name, uidOf(p)), true, nil
}

func (w *world) relabel(s step) (string, bool, error) {
	t := w.pod(s)
	if podNow(t) == nil {
		return nothing()
	}
	app := apps[s.b%len(apps)]
	w.change(t, func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": app}
		p.Spec.Containers = []corev1.Container{{Name: "main", Ports: portsOf(s.c)}}
	})
	return fmt.Sprintf("pod %s is app=%s now, ports %v", t.name, app, numbersOf(podNow(t))), true, nil
}

// report is kubelet's word of a pod of this node: how it is, or was in an earlier sandbox
// of it, by some phase.
func (w *world) report(s step) (string, bool, error) {
	t := w.pod(s)
	p := podNow(t)
	if p == nil || p.Spec.NodeName != random.Node {
		return nothing()
	}
	if p.Spec.HostNetwork {
		ips := random.NodeAddrs
		w.change(t, func(p *corev1.Pod) { p.Status.Phase, p.Status.PodIPs = corev1.PodRunning, podIPs(ips) })
		return fmt.Sprintf("kubelet reports pod %s (UID %s) Running at the node's %v", t.name, uidOf(p), ips), true, nil
	}
	its := w.those(func(x *iface) bool { return x.pod == t && x.uid == uidOf(p) && x.name == "eth0" })
	slices.Reverse(its)
	if len(its) > 1 && s.b%3 > 0 {
		its = its[:1] // mostly it is the last one's
	}
	x, ok := choose(its, s.b/4)
	if !ok {
		return nothing()
	}
	phase := []corev1.PodPhase{
		corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown,
	}[s.c%7]
	ips := x.ips
	if s.c/8%8 == 0 {
		ips = nil
	}
	w.change(t, func(p *corev1.Pod) {
		p.Status.Phase, p.Status.PodIPs, p.Status.PodIP = phase, podIPs(ips), ""
		if len(ips) > 0 && s.c/64%4 == 0 { // as an old kubelet does
			p.Status.PodIPs, p.Status.PodIP = nil, ips[0].String()
		}
	})
	w.count("kubelet reports a pod's podIP alone", podNow(t).Status.PodIP != "")
	w.count("kubelet does not know how a pod is, whose container runs", phase == corev1.PodUnknown && x.state == running)
	w.count("a pod has ended by the API server while its container runs", ended(podNow(t)) && x.state == running)
	return fmt.Sprintf("kubelet reports pod %s (UID %s) %s at %v", t.name, uidOf(p), phase, ips), true, nil
}

func podIPs(ips []netip.Addr) (all []corev1.PodIP) {
	for _, ip := range ips {
		all = append(all, corev1.PodIP{IP: ip.String()})
	}
	return all
}

// reportForeign is another kubelet's word: its pod has an address of its own, or one
// that is in this node's ranges.
func (w *world) reportForeign(s step) (string, bool, error) {
	t, ok := choose(slices.DeleteFunc(slices.Clone(w.pods), func(t *thing) bool {
		p := podNow(t)
		return p == nil || p.Spec.NodeName != others || p.Spec.HostNetwork
	}), s.a)
	if !ok {
		return nothing()
	}
	var ips []netip.Addr
	for _, v4 := range w.families {
		ip := random.PodAddrs(s.b%4, others)[map[bool]int{true: 0, false: 1}[v4]]
		if s.c%4 > 0 {
			ip = w.address(v4, s.c%16 == 1, 2+s.b%5)
		}
		ips = append(ips, ip)
	}
	w.change(t, func(p *corev1.Pod) { p.Status.Phase, p.Status.PodIPs = corev1.PodRunning, podIPs(ips) })
	return fmt.Sprintf("%s's kubelet reports pod %s Running at %v", others, t.name, ips), true, nil
}

// announce is the word of a node's agent, true or not: of pods of its node and of other ones, at
// addresses of its own, or at ones that are in this node's ranges or in use here.
func (w *world) announce(s step) (string, bool, error) {
	node := []string{others, others, random.Node, "no-node"}[s.a%4]
	object := &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: node}}
	var text []string
	for i, t := range w.pods {
		p := podNow(t)
		if p == nil || (s.b>>i)&1 == 0 {
			continue
		}
		said := v1alpha1.PodAddress{Namespace: p.Namespace, Name: p.Name, UID: uidOf(p)}
		for j, v4 := range w.families {
			ip := random.PodAddrs(s.c%4, others)[map[bool]int{true: 0, false: 1}[v4]]
			if (s.c>>i)&3 > 0 {
				ip = w.address(v4, s.c%16 == 1, 2+(s.c>>4+i+j)%5)
				w.count("an agent announces an address that is in use here", w.taken(ip))
			}
			said.IPs = append(said.IPs, ip.String())
		}
		if s.c%2 == 0 { // it is of a new sandbox
			for _, ip := range p.Status.PodIPs {
				said.Supersedes = append(said.Supersedes, ip.IP)
			}
		}
		object.Pods = append(object.Pods, said)
		text = append(text, fmt.Sprintf("%s at %v in place of %v", t.name, said.IPs, said.Supersedes))
	}
	t := w.named("PodAddresses " + node)
	if len(object.Pods) == 0 {
		if t.now() == nil {
			return nothing()
		}
		w.remove(t)
		return "the agent of " + node + " announces nothing any more", true, nil
	}
	w.put(t, object)
	return "the agent of " + node + " announces pods " + strings.Join(text, ", "), true, nil
}

// hear brings the agent news of one thing: the next, or several at once.
func (w *world) hear(s step) (string, bool, error) {
	t, ok := choose(slices.DeleteFunc(slices.Clone(w.things), func(t *thing) bool { return t.told == len(t.versions)-1 }), s.a)
	if !ok || !w.running {
		return nothing()
	}
	n := 1
	if left := len(t.versions) - 1 - t.told; s.b%2 == 0 {
		n = left
	}
	w.count("several news are heard of as one", n > 1)
	err := w.tell(t, n)
	return "the agent hears: " + t.said(), true, err
}

func (w *world) hearAgain(s step) (string, bool, error) {
	t, ok := choose(slices.DeleteFunc(slices.Clone(w.things), func(t *thing) bool { return t.told < 0 }), s.a)
	if !ok || !w.running {
		return nothing()
	}
	err := w.tell(t, 0)
	return "the agent hears again: " + t.said(), true, err
}

// said is a thing as the agent knows it.
func (t *thing) said() string {
	switch o := t.known().(type) {
	case nil:
		return t.name + " is no more"
	case *corev1.Pod:
		text := fmt.Sprintf("pod %s, UID %s, of %s, app=%s, ports %v, %s at %v", t.name, uidOf(o), o.Spec.NodeName, o.Labels["app"], numbersOf(o), o.Status.Phase, addrsOf(o))
		if o.DeletionTimestamp != nil {
			text += ", terminates"
		}
		return text
	case *corev1.Node:
		return fmt.Sprintf("%s, podCIDRs %v", t.name, o.Spec.PodCIDRs)
	case *corev1.Namespace:
		return fmt.Sprintf("%s, labels %v", t.name, o.Labels)
	}
	return t.name
}

// addrsOf are the addresses that a pod's status has.
func addrsOf(p *corev1.Pod) (ips []string) {
	if len(p.Status.PodIPs) == 0 && p.Status.PodIP != "" {
		return []string{p.Status.PodIP}
	}
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	return ips
}

// makeSandbox begins an ADD for a pod that kubelet runs here: that the API server has, or
// had until a moment ago.
func (w *world) makeSandbox(s step) (string, bool, error) {
	t := w.pod(s)
	i := len(t.versions) - 1
	if s.c%5 == 0 {
		i--
	}
	if i < 0 || t.at(i) == nil {
		return nothing()
	}
	p := t.at(i).(*corev1.Pod)
	if p.Spec.NodeName != random.Node || p.Spec.HostNetwork || p.DeletionTimestamp != nil || ended(p) {
		return nothing()
	}
	if slices.ContainsFunc(w.inUse(), func(x *iface) bool { return x.pod == t && x.uid == uidOf(p) }) {
		return nothing()
	}
	return w.add(t, uidOf(p), fmt.Sprint("container-", len(w.ifaces)), "eth0", s)
}

// makeSecond begins an ADD of a second interface of a container that runs.
func (w *world) makeSecond(s step) (string, bool, error) {
	x, ok := choose(w.those(func(x *iface) bool {
		return x.state == running && !slices.ContainsFunc(w.inUse(), func(y *iface) bool { return y.container == x.container && y != x })
	}), s.a)
	if !ok {
		return nothing()
	}
	return w.add(x.pod, x.uid, x.container, "net1", s)
}

// add hands addresses out, and asks the agent. One that is away refuses.
func (w *world) add(t *thing, uid types.UID, container, name string, s step) (string, bool, error) {
	x := &iface{container: container, name: name, pod: t, key: t.key(), uid: uid, said: uid}
	if w.uidless && s.b%3 > 0 {
		x.said = ""
	}
	families := w.families
	if len(families) > 1 && s.b/4%4 == 0 {
		families = families[s.b/16%2:][:1] // of one family
	}
	for _, v4 := range families {
		ip, ok := w.allocate(v4, name == "net1" && s.b/32%2 == 0, s.c%2 == 0)
		if !ok {
			return nothing()
		}
		x.ips = append(x.ips, ip)
	}
	w.count("a static pod's sandbox is made", strings.HasPrefix(string(uid), "static-"))
	text := fmt.Sprintf("ADD of %s (UID %s, told: %q) at %v", x, uid, x.said, x.ips)
	if !w.running {
		return text + " fails, as the agent is away", true, nil
	}
	w.count("a container gets another's address at once", slices.ContainsFunc(w.ifaces, func(y *iface) bool { return slices.Contains(y.ips, x.ips[0]) }))
	w.count("a pod's sandbox is remade with other addresses", slices.ContainsFunc(w.ifaces, func(y *iface) bool {
		return y.uid == uid && y.name == name && !slices.Equal(x.ips, y.ips)
	}))
	for _, y := range w.ifaces { // the agent takes this for its end
		y.noted = y.noted && y.at() != x.at() && !slices.ContainsFunc(y.ips, func(ip netip.Addr) bool { return slices.Contains(x.ips, ip) })
	}
	x.noted = true
	w.ifaces = append(w.ifaces, x)
	return text, true, w.agent.add(x)
}

func (w *world) giveUp(s step) (string, bool, error) {
	x, ok := choose(w.those(func(x *iface) bool { return x.state == handed }), s.a)
	if !ok || !w.running {
		return nothing()
	}
	x.noted = false
	return fmt.Sprintf("the ADD of %s is given up", x), true, errors.Join(w.agent.giveUp(x), w.finish(x))
}

// end ends a sandbox, with or without the agent hearing of it.
func (w *world) end(x *iface, tell bool) error {
	var errs []error
	for _, y := range w.inUse() {
		if y.container != x.container {
			continue
		}
		waits := y.state == handed && w.running
		if waits { // its ADD cannot go on
			errs = append(errs, w.agent.giveUp(y))
		}
		errs = append(errs, w.finish(y))
		y.noted = y.noted && !waits
		if tell && !waits && w.running {
			y.noted = false
			errs = append(errs, w.agent.del(y))
		}
	}
	return errors.Join(errs...)
}

func (w *world) ending(s step, tell bool, text string) (string, bool, error) {
	x, ok := choose(w.those(func(x *iface) bool { return x.state == running }), s.a)
	if !ok {
		return nothing()
	}
	return fmt.Sprintf("%s of %s ends, %s", x.container, x.key, text), true, w.end(x, tell)
}

func (w *world) endSandbox(s step) (string, bool, error) { return w.ending(s, true, "with its DEL") }

func (w *world) loseSandbox(s step) (string, bool, error) {
	return w.ending(s, false, "its DEL is lost")
}

func (w *world) lateDel(s step) (string, bool, error) {
	x, ok := choose(w.those(func(x *iface) bool {
		// A runtime does not say DEL of what it has said ADD of since.
		return x.state == over && !slices.ContainsFunc(w.inUse(), func(y *iface) bool { return y.at() == x.at() })
	}), s.a)
	if !ok || !w.running {
		return nothing()
	}
	for _, y := range w.ifaces { // an ADD may have been said twice
		y.noted = y.noted && y.at() != x.at()
	}
	w.count("a DEL comes when another container has the address", w.taken(x.ips[0]))
	return fmt.Sprintf("DEL of %s, late or again", x), true, w.agent.del(x)
}

func (w *world) collect(step) (string, bool, error) {
	if !w.running {
		return nothing()
	}
	for _, x := range w.ifaces {
		x.noted = x.noted && x.state != over
	}
	return fmt.Sprintf("GC: valid are %v", w.inUse()), true, w.agent.gc(w.inUse())
}

// restartRuntime remakes all sandboxes, in another order.
func (w *world) restartRuntime(s step) (string, bool, error) {
	before := w.those(func(x *iface) bool { return x.state == running && x.name == "eth0" })
	if len(before) == 0 || !w.running {
		return nothing()
	}
	for i, x := range before {
		if err := w.end(x, s.b>>i%2 == 0); err != nil {
			return "", true, err
		}
	}
	rand.New(rand.NewSource(int64(s.a))).Shuffle(len(before), func(i, j int) { before[i], before[j] = before[j], before[i] })
	text := "the runtime restarts"
	for i, x := range before {
		said, _, err := w.add(x.pod, x.uid, fmt.Sprint("container-", len(w.ifaces)), "eth0", step{b: s.b >> i, c: s.c >> i})
		if err != nil {
			return "", true, err
		}
		text += "; " + said
	}
	return text, true, nil
}

// reboot leaves nothing of the node's life but what the API server has.
func (w *world) reboot(step) (string, bool, error) {
	err := w.halt()
	for _, x := range w.ifaces {
		err = errors.Join(err, w.finish(x))
		x.noted = false
	}
	clear(w.ranges)
	return "the node reboots", true, errors.Join(err, w.agent.wipe())
}

// halt stops the agent. The ADDs that wait for it fail, and what it has kept of them
// stays.
func (w *world) halt() error {
	if !w.running {
		return nil
	}
	w.running = false
	err := w.agent.stop()
	for _, x := range w.those(func(x *iface) bool { return x.state == handed }) {
		err = errors.Join(err, w.finish(x))
	}
	return err
}

func (w *world) stopAgent(step) (string, bool, error) {
	if !w.running {
		return nothing()
	}
	return "the agent stops", true, w.halt()
}

// beginAgent starts the agent, now and then by a list that is old.
func (w *world) beginAgent(s step) (string, bool, error) {
	if w.running {
		return nothing()
	}
	behind := 0
	if s.b%2 == 0 {
		behind = s.c % 6
	}
	w.count("the agent starts by an old list", behind > 0)
	return fmt.Sprintf("the agent starts, by a list that is %d changes old", behind), true, w.startAgent(behind)
}

// loseNote restarts the agent, without the file that says of an attachment.
func (w *world) loseNote(s step) (string, bool, error) {
	x, ok := choose(w.those(func(x *iface) bool { return x.state == running && !x.lost }), s.a)
	if !ok {
		return nothing()
	}
	if err := w.halt(); err != nil {
		return "", true, err
	}
	x.lost, x.noted = true, false
	if err := w.agent.lose(x); err != nil {
		return "", true, err
	}
	return fmt.Sprintf("the agent starts, without its note of %s", x), true, w.startAgent(0)
}

// changeNode deletes the node's object, or gives it other ranges, or none, or of one
// family, or the right ones.
func (w *world) changeNode(s step) (string, bool, error) {
	t := w.named("Node " + random.Node)
	right := random.Nodes()[0]
	cidrs := [][]string{right.Spec.PodCIDRs, right.Spec.PodCIDRs, nil, right.Spec.PodCIDRs[:1], {"10.244.7.0/24", "fd00:244:0:7::/64"}}[s.b%5]
	if s.c%4 == 0 || w.chained && s.c%2 == 0 {
		if t.now() == nil {
			return nothing()
		}
		w.remove(t)
		return t.name + " is deleted", true, nil
	}
	if w.chained {
		cidrs = nil
	}
	right.Spec = corev1.NodeSpec{PodCIDRs: cidrs}
	w.put(t, right)
	return fmt.Sprintf("%s has podCIDRs %v", t.name, cidrs), true, nil
}

func (w *world) changeNamespace(s step) (string, bool, error) {
	name := []string{"shop", "db"}[s.a%2]
	t := w.named("Namespace " + name)
	if s.b%4 == 0 {
		if t.now() == nil {
			return nothing()
		}
		w.remove(t)
		return t.name + " is deleted", true, nil
	}
	team := teams[s.c%2]
	w.put(t, namespaceOf(name, team))
	return fmt.Sprintf("%s is of team %s", t.name, team), true, nil
}

func (w *world) changePolicy(s step) (string, bool, error) {
	f := fences[s.a%len(fences)]
	t := w.named("NetworkPolicy " + f.key.String())
	if t.now() == nil {
		w.put(t, f.object())
		return t.name + " is created", true, nil
	}
	w.remove(t)
	return t.name + " is deleted", true, nil
}

// look counts the situations that there are.
func (w *world) look() {
	shown := map[netip.Addr][]*corev1.Pod{}
	for _, t := range w.pods {
		if p := podKnown(t); p != nil && !ended(p) {
			for _, ip := range addrsOf(p) {
				shown[netip.MustParseAddr(ip)] = append(shown[netip.MustParseAddr(ip)], p)
			}
		}
	}
	here := func(p *corev1.Pod) bool { return p.Spec.NodeName == random.Node }
	foreign := func(p *corev1.Pod) bool { return !here(p) }
	for _, x := range w.inUse() {
		p := podKnown(x.pod)
		w.count("a container's pod is not known", podOf(x) == nil)
		w.count("a container's pod is remade elsewhere under its name", p != nil && !here(p) && uidOf(p) != x.uid)
		w.count("a container's pod is remade here under its name", p != nil && here(p) && uidOf(p) != x.uid)
		w.count("an ADD has to wait", x.state == handed && !w.answerable(x))
		w.count("the agent is away while a container runs", !w.running)
		w.count("a container has two interfaces", x.name == "net1")
		for _, ip := range x.ips {
			by := shown[ip]
			w.count("the API server shows a container's address at another pod", slices.ContainsFunc(by, func(p *corev1.Pod) bool { return uidOf(p) != x.uid }))
			w.count("the API server shows a container's address at two pods", len(by) > 1)
			w.count("another node's pod reports a container's address", slices.ContainsFunc(by, foreign))
			w.count("an address is in no range", !w.ranges[ip.Is4()].IsValid() || !w.ranges[ip.Is4()].Contains(ip))
			w.count("the API server does not show a container's address at its pod", p != nil && uidOf(p) == x.uid && !shows(p, ip))
			w.count("the API server shows other addresses at a container's pod", p != nil && uidOf(p) == x.uid && !shows(p, ip) && len(addrsOf(p)) > 0 && x.name == "eth0")
			w.count("a note is lost, and nothing but the range closes the address", x.lost && !w.unpromised(ip))
			w.count("a note is lost, and another node's pod reports the address", x.lost && !w.unpromised(ip) && len(by) > 0)
		}
	}
	if node := w.named("Node " + random.Node); w.running && len(w.inUse()) > 0 {
		n, _ := node.known().(*corev1.Node)
		w.count("the Node is not there, or without podCIDRs", n == nil || len(n.Spec.PodCIDRs) == 0)
	}
}
