package controllers_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/enforcer"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

var (
	seed     = flag.Int64("seed", 1, "seed of the first random life of an enforcer; the others follow")
	duration = flag.Duration("duration", 0, "go on with random lives for so long")
)

// TestRandomCommits has agents go through random histories in a real kernel that refuses what
// it dislikes of policies, that fails now and then, before or after it has done what it was
// told, and in which others change the tables; agents stop and start anew. Whenever an agent
// says that what it was fed is in the kernel, the tables hold what Compile makes of it, less
// the rules of the policies that the kernel refuses; and in the end flows are cut that those
// do not let pass, and no others. To see one again (what is committed together is chance):
//
//	go test ./controllers -run TestRandomCommits -seed N
func TestRandomCommits(t *testing.T) {
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	node, err := l.AddNode(random.Node, random.NodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	began, ok := time.Now(), true
	for i := int64(0); ok && (i < 2 || time.Since(began) < *duration); i++ {
		ok = t.Run(fmt.Sprint(*seed+i), func(t *testing.T) { randomCommits(t, node, *seed+i) })
	}
}

// enforced is a node with an agent, in a random history.
type enforced struct {
	*testing.T
	r       *rand.Rand
	where   *lab.Node
	dir     string
	options ruleset.Options
	badPort uint16
	flows   *flowTable
	kernel  *flaky
	history []random.Event
	steps   []string
	// meddled is how often others have changed the tables: more in a row is a fight.
	meddled int
	added   int
	// lost are the links of containers that are gone, without a DEL.
	lost map[string]bool

	started *agent.Agent
	stop    func()
}

func randomCommits(t *testing.T, where *lab.Node, seed int64) {
	r := rand.New(rand.NewSource(seed))
	e := &enforced{
		T: t, r: r, where: where, dir: t.TempDir(),
		options: ruleset.Options{AllowToNode: r.Intn(2) == 0, Reject: r.Intn(2) == 0, Guard: true, Masquerade: r.Intn(2) == 0, RevokedMark: 1},
		badPort: []uint16{0, 80, 443, 8080}[r.Intn(4)],
		lost:    map[string]bool{},
		flows:   &flowTable{r: rand.New(rand.NewSource(seed)), faulty: true, of: map[flowOf]bool{}},
	}
	e.kernel = &flaky{r: rand.New(rand.NewSource(seed)), faulty: true, badPort: e.badPort, pods: map[nft.Element]bool{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, options %+v, port %d refused, after these steps:\n%s", seed, e.options, e.badPort, strings.Join(e.steps, "\n"))
		}
	})
	e.nft("flush ruleset")
	e.start()
	defer func() { e.stop() }()
	for range 25 {
		e.step()
		e.verify()
		if t.Failed() {
			return
		}
	}
	if e.r.Intn(2) == 0 { // what fails last is tried again though nothing changes any more
		time.Sleep(time.Second + time.Duration(e.r.Intn(1000))*time.Millisecond)
	}
	e.kernel.heal()
	e.flows.heal()
	e.verify()
	e.verifyFlows()
}

func (e *enforced) say(format string, args ...any) {
	e.steps = append(e.steps, fmt.Sprintf(format, args...))
}

// step has something happen.
func (e *enforced) step() {
	switch e.r.Intn(12) {
	case 0:
		e.say("the agent starts anew")
		e.stop()
		if e.r.Intn(4) == 0 {
			e.reboot()
		}
		e.feed(e.r.Intn(3))
		e.start()
	case 1:
		if e.meddled < 3 {
			e.meddle()
		}
		e.feed(e.r.Intn(2))
	case 2:
		e.begin()
		e.feed(1)
	case 3:
		e.add()
	case 4:
		if a := e.one(); a != nil {
			e.remove(*a)
		}
	case 5:
		if a := e.one(); a != nil {
			e.say("the link of %s is gone", a.ContainerID)
			e.lost[a.HostInterface] = true
			e.flows.forget() // what fails then is tried again after a minute only
		}
	default:
		e.feed(1 + e.r.Intn(5))
	}
}

// feed has the cluster change.
func (e *enforced) feed(n int) {
	for _, event := range random.History(e.r, n) {
		if a := event.Attachment; a != nil { // as the plugin has connected it
			a.HostInterface, a.MAC = "pf"+a.ContainerID[len("container-"):]+a.IfName, [6]byte{2, a.IPs[0].As16()[15]}
		}
		e.history = append(e.history, event)
		e.say("an event: %s", what(event))
		if e.started != nil {
			e.started.Enforcer.Feed(event.Change())
			if e.r.Intn(4) == 0 { // the next ones come while this one is on its way into the kernel
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
}

// add has the plugin tell of a container of one of the pods here. While its address was
// another's, flows were begun, which end with the ADD.
func (e *enforced) add() {
	var pods []*policy.Pod
	for _, o := range random.Snapshot(e.history).Pods {
		if pod, seen := policy.PodOf(o); seen && pod.Node == random.Node && !pod.Terminating {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		return
	}
	pod := pods[e.r.Intn(len(pods))]
	e.added++
	a := policy.Attachment{
		ContainerID: fmt.Sprint("added-", e.added), IfName: "eth0", Pod: pod.Key, UID: pod.UID,
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(100 + e.added)})}, HostInterface: fmt.Sprint("pfadded", e.added), MAC: [6]byte{2, 2, byte(e.added)},
	}
	for _, other := range random.Outside {
		if other.Is4() {
			e.flows.begin(flowOf{nft.Forward, policy.Packet{Src: other, Dst: a.IPs[0], Protocol: policy.TCP, DstPort: 80, HopLimit: 64}})
			e.flows.begin(flowOf{nft.Forward, policy.Packet{Src: a.IPs[0], Dst: other, Protocol: policy.TCP, DstPort: 80, HopLimit: 64}})
		}
	}
	err := e.call(handshake.Request{
		Op: handshake.OpAdd, Mode: handshake.ModeBridge, ContainerID: a.ContainerID, IfName: a.IfName, IPs: a.IPs,
		HostInterface: a.HostInterface, MAC: net.HardwareAddr(a.MAC[:]).String(),
		Pod: handshake.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)},
	})
	e.say("ADD of %s for pod %s at %s: %v", a.ContainerID, pod.Key, a.IPs[0], err)
	if err != nil { // the plugin undoes what it can
		if !errors.Is(err, errOfTheMoment) && !strings.Contains(err.Error(), errOfTheMoment.Error()) {
			e.Errorf("ADD of %s: %v", a.ContainerID, err)
		}
		e.history = append(e.history, random.Event{Attachment: &a})
		e.remove(a)
		return
	}
	e.history = append(e.history, random.Event{Attachment: &a})
	if !e.kernel.hasPod(a.IPs[0]) {
		e.Errorf("the ADD of %s is answered, and its address is not in the kernel's maps", a.ContainerID)
	}
	if left := e.flows.ofAddr(a.IPs[0]); left > 0 {
		e.Errorf("the ADD of %s is answered, and there are %d flows of its address of before", a.ContainerID, left)
	}
}

// one is a container that the plugin has told of; nil: there is none.
func (e *enforced) one() *policy.Attachment {
	for _, a := range random.Snapshot(e.history).Attachments {
		if strings.HasPrefix(a.ContainerID, "added-") && !e.lost[a.HostInterface] {
			return &a
		}
	}
	return nil
}

// remove is DEL, until it succeeds.
func (e *enforced) remove(a policy.Attachment) {
	e.say("DEL of %s", a.ContainerID)
	NewWithT(e).Eventually(func() error {
		return e.call(handshake.Request{Op: handshake.OpDel, ContainerID: a.ContainerID, IfName: a.IfName})
	}, soon, often).Should(Succeed())
	e.history = append(e.history, random.Event{Attachment: &a, Delete: true})
}

func (e *enforced) call(r handshake.Request) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	return handshake.Call(ctx, filepath.Join(e.dir, "agent.sock"), r)
}

func what(event random.Event) string {
	if event.Attachment != nil {
		return fmt.Sprintf("attachment of %s at %v, gone: %t", event.Attachment.Pod, event.Attachment.IPs, event.Delete)
	}
	return fmt.Sprintf("%T %s/%s, gone: %t", event.Object, event.Object.GetNamespace(), event.Object.GetName(), event.Delete)
}

// gateway is the bridge's.
var gateway = ruleset.Gateway{MAC: [6]byte{2, 1}}

func firstOf(podCIDR netip.Prefix) netip.Addr { return podCIDR.Addr().Next() }

// start starts an agent, which knows what there is now.
func (e *enforced) start() {
	e.Helper()
	namespace := kernel.Options{NetNS: e.where.NetNS(), Guard: true}
	conn, err := kernel.Open(namespace)
	if err != nil {
		e.Fatal(err)
	}
	watch, err := conn.Watch(namespace)
	if err != nil {
		e.Fatal(err)
	}
	e.kernel.conn = conn
	o := agent.Options{
		Node: random.Node, Manifests: filepath.Join(e.dir, "empty"), MetricsAddress: "0", HealthAddress: "0",
		Ruleset: e.options, Watch: watch, Flows: e.flows, Registry: prometheus.NewRegistry(), Log: logr.Discard(),
		CNI: &agent.CNI{
			Socket: filepath.Join(e.dir, "agent.sock"), State: filepath.Join(e.dir, "attachments"),
			Bridge: &enforcer.Bridge{Kernel: e.kernel, MAC: gateway.MAC, Gateway: firstOf},
			Links:  linksBut(maps.Clone(e.lost)),
		},
	}
	if o.LastPodCIDRs, err = conn.Ranges(ruleset.PodRangeSets[:]...); err != nil {
		e.Fatal(err)
	}
	if err := os.MkdirAll(o.Manifests, 0o700); err != nil {
		e.Fatal(err)
	}
	if e.started, err = agent.New(e.kernel, o); err != nil {
		e.Fatal(err)
	}
	var changes []policy.Change
	for _, event := range random.Final(e.history) {
		if event.Attachment == nil || !strings.HasPrefix(event.Attachment.ContainerID, "added-") { // it has noted those
			changes = append(changes, event.Change())
		}
	}
	e.started.Enforcer.Feed(changes...)
	e.started.Enforcer.Feed(policy.Synced())
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- e.started.Start(ctx) }()
	// As a runtime does, which has STATUS answered before it calls ADD.
	NewWithT(e).Eventually(func() error { return e.call(handshake.Request{Op: handshake.OpStatus}) }, soon, often).Should(Succeed())
	// It looks for containers that are gone when it starts.
	for _, a := range random.Snapshot(e.history).Attachments {
		if e.lost[a.HostInterface] {
			e.history = append(e.history, random.Event{Attachment: &a, Delete: true})
		}
	}
	e.stop = func() {
		cancel()
		if err := errors.Join(<-stopped, watch.Close(), conn.Close()); err != nil {
			e.Error(err)
		}
		e.started, e.stop = nil, func() {}
	}
}

// reboot has what the plugin has told of be of an earlier boot, while no agent runs.
func (e *enforced) reboot() {
	e.say("the node was started meanwhile")
	path := filepath.Join(e.dir, "attachments.boot")
	if err := os.WriteFile(path, []byte("8c7e2d5a-0000-4000-8000-000000000000\n"), 0o600); err != nil {
		e.Fatal(err)
	}
	for a := e.one(); a != nil; a = e.one() {
		e.history = append(e.history, random.Event{Attachment: a, Delete: true})
	}
}

// linksBut are the node's links but for some that are lost.
func linksBut(lost map[string]bool) func(names []string) (map[string]bool, error) {
	return func(names []string) (map[string]bool, error) {
		there := map[string]bool{}
		for _, name := range names {
			there[name] = !lost[name]
		}
		return there, nil
	}
}

// meddle has somebody else change the tables.
func (e *enforced) meddle() {
	e.meddled++
	commands := []string{
		"delete table inet podfence", "delete table bridge podfence", "flush ruleset", "flush chain inet podfence ingress-forward",
		"flush map inet podfence ingress-pods-4", "insert rule inet podfence egress-forward accept", "add chain inet podfence another",
		"flush set bridge podfence senders-4", "add element inet podfence pod-ranges-4 { 192.0.2.0/24 }",
	}
	command := commands[e.r.Intn(len(commands))]
	e.say("somebody: nft %s", command)
	e.nft(command)
}

// nft runs nft on the node.
func (e *enforced) nft(command string) string {
	e.Helper()
	var out []byte
	err := e.where.Do(func() (err error) {
		out, err = exec.Command("nft", strings.Fields(command)...).CombinedOutput()
		return err
	})
	if err != nil && !strings.Contains(string(out), "No such file") {
		e.Fatalf("nft %s: %v: %s", command, err, out)
	}
	return string(out)
}

// wanted are the tables that the kernel should hold.
func (e *enforced) wanted() (table *ruleset.Table, guard *ruleset.Guard) {
	s := random.Snapshot(e.history)
	intent, _ := policy.Compile(s, random.Node)
	refused := map[policy.Key]struct{}{}
	for key := range intent.Policies {
		rest := maps.Clone(intent.Policies)
		delete(rest, key)
		alone := intent.Quarantine(policySet(rest))
		if disliked(ruleset.Build(alone, e.options).Replacement(), e.badPort) >= 0 {
			refused[key] = struct{}{}
		}
	}
	at := gateway
	for _, podCIDR := range intent.PodCIDRs {
		at.Addrs = append(at.Addrs, firstOf(podCIDR))
	}
	return ruleset.Build(intent.Quarantine(refused), e.options), ruleset.BuildGuard(s.Attachments, at, ruleset.FragmentMemory{})
}

func policySet[V any](policies map[policy.Key]V) map[policy.Key]struct{} {
	set := map[policy.Key]struct{}{}
	for key := range policies {
		set[key] = struct{}{}
	}
	return set
}

// verify waits until all that was fed is in the kernel, and compares.
func (e *enforced) verify() {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.started.Enforcer.Sync(ctx); err != nil {
		e.Fatalf("what was fed does not get into the kernel: %v", err)
	}
	calls := e.kernel.called()
	table, guard := e.wanted()
	reference, err := kernel.Open(kernel.Options{NetNS: e.where.NetNS(), Table: "reference"})
	if err != nil {
		e.Fatal(err)
	}
	defer reference.Close()
	for _, want := range []*nft.Table{&table.Table, &guard.Table} {
		if err := reference.Apply(want.Replacement()); err != nil {
			e.Fatal(err)
		}
		family := want.Replacement().Family
		listing := func(name string) string {
			return lab.SortListing(e.nft("-s list table " + family.String() + " " + name))
		}
		differ := func() string { return cmp.Diff(listing("reference"), listing("podfence")) }
		if e.meddled+len(e.lost) > 0 { // it is noticed in a moment
			NewWithT(e).Eventually(differ, soon, often).Should(BeEmpty(), "of family %s (-want +have)", family)
		} else if diff := differ(); diff != "" {
			e.Errorf("the agent says that all is in the kernel, but of family %s (-want +have):\n%s", family, diff)
		}
	}
	// To list a table takes longer than to commit one.
	if more := e.kernel.called() - calls; more > 0 && e.meddled+len(e.lost) == 0 {
		e.Errorf("the agent has said that all is in the kernel, and then told that %d times more", more)
	}
}

// begin has flows begin.
func (e *enforced) begin() {
	s := random.Snapshot(e.history)
	for range 20 {
		p := random.Packet(e.r, s)
		if hook, seen := random.Hook(s, p); seen {
			e.flows.begin(flowOf{hook, p})
		}
	}
}

// verifyFlows waits until those flows are cut that the table does not let pass.
func (e *enforced) verifyFlows() {
	e.Helper()
	table, _ := e.wanted()
	NewWithT(e).Eventually(func() []string {
		return e.flows.wrong(func(f flowOf) bool {
			return table.Trace(f.hook, nft.TracePacket{Packet: f.packet, State: nft.New}).Verdict == nft.Accept
		})
	}, soon, often).Should(BeEmpty())
}

// flaky is a kernel that refuses a port in policies' rules, and fails now and then.
type flaky struct {
	conn    *kernel.Conn
	badPort uint16

	mu     sync.Mutex
	r      *rand.Rand
	faulty bool
	calls  int
	pods   map[nft.Element]bool
}

var errOfTheMoment = errors.New("a fault of the moment")

// disliked is where a plan has a port in a set of a policy's ports; -1: nowhere. Zero is none.
func disliked(plan nft.Plan, port uint16) int {
	return slices.IndexFunc(plan.Ops, func(op nft.Op) bool {
		add, is := op.(nft.AddElements)
		return is && port != 0 && strings.HasPrefix(add.Set, "ports-") &&
			slices.ContainsFunc(add.Elements, func(e nft.Element) bool { return e.First == port })
	})
}

func (k *flaky) refuses(plan nft.Plan) error {
	op := disliked(plan, k.badPort)
	if op < 0 {
		return nil
	}
	if k.badPort == 443 { // it does not say what it dislikes
		op = -1
	}
	return &nft.Refusal{Op: op, Err: errRefused}
}

// Apply implements enforcer.Kernel.
func (k *flaky) Apply(plan nft.Plan) error {
	k.mu.Lock()
	k.calls++
	k.mu.Unlock()
	if err := k.refuses(plan); err != nil {
		return err
	}
	switch k.fault(12) {
	case 0:
		return errOfTheMoment
	case 1: // it is done, and nobody hears of it
		return errors.Join(k.apply(plan), errOfTheMoment)
	case 2: // it is not as podfence has left it
		if !plan.Replace {
			return &nft.Refusal{Op: -1, Err: errRefused}
		}
	case 3: // it takes a while
		time.Sleep(100 * time.Millisecond)
	}
	return k.apply(plan)
}

// apply carries a plan out, and notes which addresses of pods come into the maps by it.
func (k *flaky) apply(plan nft.Plan) error {
	if err := k.conn.Apply(plan); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, op := range plan.Ops {
		if add, is := op.(nft.AddVerdicts); is && add.Map == "ingress-pods-4" {
			for _, entry := range add.Entries {
				k.pods[entry.Key] = true
			}
		}
	}
	return nil
}

// called is how often it was told to carry a plan out.
func (k *flaky) called() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls
}

// hasPod reports whether an address has come into the maps. To list them takes longer than a
// commit.
func (k *flaky) hasPod(addr netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pods[nft.AddrElement(addr)]
}

// Check implements enforcer.Kernel.
func (k *flaky) Check(plan nft.Plan) error {
	if err := k.refuses(plan); err != nil {
		return err
	}
	if k.fault(40) == 0 {
		return errOfTheMoment
	}
	return k.conn.Check(plan)
}

// fault draws one of n, of which the first are faults; there are none once it is healed.
func (k *flaky) fault(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.faulty {
		return n
	}
	return k.r.Intn(n)
}

func (k *flaky) heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faulty = false
}

// flowOf is an established flow.
type flowOf struct {
	hook   nft.HookPoint
	packet policy.Packet
}

// flowTable is connection tracking, which fails now and then. It has for each flow whether it
// is cut.
type flowTable struct {
	mu     sync.Mutex
	r      *rand.Rand
	faulty bool
	// forgets: Forget does not fail.
	forgets bool
	of      map[flowOf]bool
}

func (t *flowTable) begin(f flowOf) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of[f] = false
}

func (t *flowTable) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgets = true
}

func (t *flowTable) heal() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faulty = false
}

// wrong are the flows that are cut though they may pass, or the other way round.
func (t *flowTable) wrong(passes func(flowOf) bool) (all []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f, cut := range t.of {
		if passes(f) == cut {
			all = append(all, fmt.Sprintf("%s at %s is cut: %t", f.packet, f.hook, cut))
		}
	}
	return all
}

// Revoke implements agent.Flows.
func (t *flowTable) Revoke(judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return t.judge(func(flowOf) bool { return true }, judge)
}

// RevokeOf implements agent.Flows.
func (t *flowTable) RevokeOf(addrs []netip.Addr, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return t.judge(func(f flowOf) bool {
		return slices.Contains(addrs, f.packet.Src) || slices.Contains(addrs, f.packet.Dst)
	}, judge)
}

func (t *flowTable) judge(of func(flowOf) bool, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	faulty := t.faulty && t.r.Intn(2) == 0
	for f, cut := range t.of {
		if faulty && t.r.Intn(2) == 0 {
			return revoked, restored, errOfTheMoment
		}
		if !of(f) || judge(f.hook, f.packet) != cut {
			continue
		}
		if t.of[f] = !cut; cut {
			restored++
		} else {
			revoked++
		}
	}
	return revoked, restored, nil
}

// ofAddr is how many flows of an address there are.
func (t *flowTable) ofAddr(addr netip.Addr) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f := range t.of {
		if f.packet.Src == addr || f.packet.Dst == addr {
			n++
		}
	}
	return n
}

// Forget implements agent.Flows.
func (t *flowTable) Forget(addrs []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.faulty && !t.forgets && t.r.Intn(4) == 0 {
		return errOfTheMoment
	}
	maps.DeleteFunc(t.of, func(f flowOf, _ bool) bool {
		return slices.Contains(addrs, f.packet.Src) || slices.Contains(addrs, f.packet.Dst)
	})
	return nil
}
