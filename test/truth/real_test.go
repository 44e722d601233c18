package truth

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/podfence/podfence/agent"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

var realHistories = flag.Int("real", 2, "histories that a real agent goes through, in a real kernel")

const (
	realLength = 100
	// soon is when at the latest what must happen has, on a busy machine.
	soon = 20 * time.Second
	// looks is how long an ADD is watched that must not be answered: the agent looks every
	// 10 ms whether its pod is known.
	looks = 30 * time.Millisecond
)

// TestReal goes through random histories with a real agent on a real node: the socket,
// the folder and the restarts are real, and so are the packets.
func TestReal(t *testing.T) {
	if err := lab.Check(); err != nil {
		t.Fatal(err)
	}
	ctrl.SetLogger(logr.Discard())
	explore(t, *realHistories, realLength, func(s setting) keeper { return newReal(t, s) }, false)
}

// real is an agent in this process, on a node of a lab. It is fed as the watches would.
type real struct {
	setting
	dir     string
	lab     *lab.Lab
	node    *lab.Node
	outside *lab.Host
	hosts   map[*iface]*lab.Host // that the addresses in use really are at
	adds    map[*iface]*adding

	agent   *agent.Agent
	conn    *kernel.Conn
	flows   *kernel.Flows
	cancel  context.CancelFunc
	stopped chan error
}

// adding is an ADD that runs.
type adding struct {
	hangUp context.CancelFunc
	answer chan error
}

func newReal(t *testing.T, s setting) *real {
	t.Helper()
	a := &real{setting: s, dir: t.TempDir(), hosts: map[*iface]*lab.Host{}, adds: map[*iface]*adding{}}
	var err error
	if a.lab, err = lab.New(lab.Options{Settle: 30 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	var outside error
	if a.node, err = a.lab.AddNode(random.Node, random.NodeAddrs...); err == nil {
		a.outside, outside = a.node.AddExternal("outside", random.Outside[0], random.Outside[2])
	}
	if err := errors.Join(err, outside); err != nil {
		t.Fatal(errors.Join(err, a.lab.Close()))
	}
	return a
}

func (a *real) socket() string { return filepath.Join(a.dir, "agent.sock") }

func (a *real) state() string { return filepath.Join(a.dir, "attachments") }

func (a *real) start(listed []random.Event) (err error) {
	namespace := kernel.Options{NetNS: a.node.NetNS()}
	if a.conn, err = kernel.Open(namespace); err != nil {
		return err
	}
	o := agent.Options{
		Node: random.Node, Manifests: filepath.Join(a.dir, "empty"), MetricsAddress: "0", HealthAddress: "0",
		Ruleset: a.ruleset, CNI: &agent.CNI{Socket: a.socket(), State: a.state()},
		Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	}
	if o.LastPodCIDRs, err = a.conn.Ranges(ruleset.PodRangeSets[:]...); err != nil {
		return err
	}
	if a.ruleset.RevokedMark != 0 {
		if a.flows, err = kernel.OpenFlows(namespace, a.ruleset.RevokedMark); err != nil {
			return err
		}
		o.Flows = a.flows
	}
	if err = os.MkdirAll(o.Manifests, 0o700); err != nil {
		return err
	}
	if a.agent, err = agent.New(a.conn, o); err != nil {
		return err
	}
	// As firstLoad does it, before the first commit.
	a.agent.Enforcer.Feed(random.Changes(listed)...)
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.stopped = cancel, make(chan error, 1)
	go func() { a.stopped <- a.agent.Start(ctx) }()
	return check.Await(soon, "the agent to be ready", func() error {
		return errors.Join(a.agent.Enforcer.Ready(), a.call(handshake.Request{Op: handshake.OpStatus}))
	})
}

func (a *real) stop() error {
	if a.agent == nil {
		return nil
	}
	a.cancel()
	err := errors.Join(<-a.stopped, a.conn.Close())
	if a.flows != nil {
		err = errors.Join(err, a.flows.Close())
	}
	a.agent, a.flows = nil, nil
	for x, add := range a.adds {
		add.hangUp()
		<-add.answer
		delete(a.adds, x)
		x.noted = false // it has been undone
	}
	return err
}

func (a *real) wipe() error {
	return errors.Join(os.RemoveAll(a.state()), a.node.Do(func() error {
		out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft flush ruleset: %w: %s", err, out)
		}
		return nil
	}))
}

func (a *real) close() error {
	err := a.stop()
	return errors.Join(err, a.lab.Close())
}

func (a *real) tell(e random.Event) error {
	a.agent.Enforcer.Feed(e.Change())
	return a.sync()
}

// sync waits until all that was fed is in the kernel.
func (a *real) sync() error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	return a.agent.Enforcer.Sync(ctx)
}

func (a *real) call(r handshake.Request) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	return handshake.Call(ctx, a.socket(), r)
}

// add connects the container at once, more than a plugin does, and asks the agent. It
// waits until that has heard of it.
func (a *real) add(x *iface) (err error) {
	if a.hosts[x], err = a.node.AddPod(x.container+"-"+x.name, lab.PodOptions{IPs: x.ips}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	add := &adding{hangUp: cancel, answer: make(chan error, 1)}
	a.adds[x] = add
	go func() {
		add.answer <- handshake.Call(ctx, a.socket(), handshake.Request{
			Op: handshake.OpAdd, ContainerID: x.container, IfName: x.name, IPs: x.ips,
			Pod: handshake.Pod{Namespace: x.key.Namespace, Name: x.key.Name, UID: string(x.said)},
		})
	}()
	if err := check.Await(soon, fmt.Sprintf("the agent to hear of %s", x), check.Holds(func() bool { return a.knows(x) })); err != nil {
		return err
	}
	return a.sync()
}

// knows reports whether the agent knows of an attachment.
func (a *real) knows(x *iface) bool {
	return slices.ContainsFunc(a.agent.Enforcer.Attachments(), func(b policy.Attachment) bool { return b.ContainerID == x.container && b.IfName == x.name })
}

func (a *real) answered(x *iface, expected bool) (bool, error) {
	add := a.adds[x]
	if add == nil {
		return false, nil
	}
	patience := looks
	if expected {
		patience = soon
	}
	select {
	case err := <-add.answer:
		add.hangUp()
		delete(a.adds, x)
		return err == nil, err
	case <-time.After(patience):
		return false, nil
	}
}

func (a *real) giveUp(x *iface) error {
	add := a.adds[x]
	add.hangUp()
	<-add.answer
	delete(a.adds, x)
	if err := check.Await(soon, fmt.Sprintf("the agent to forget %s", x), check.Holds(func() bool { return !a.knows(x) })); err != nil {
		return err
	}
	return a.sync()
}

func (a *real) ended(x *iface) error {
	delete(a.hosts, x)
	return a.node.RemovePod(x.container + "-" + x.name)
}

func (a *real) del(x *iface) error {
	err := a.call(handshake.Request{Op: handshake.OpDel, ContainerID: x.container, IfName: x.name})
	return errors.Join(err, a.sync())
}

func (a *real) gc(valid []*iface) error {
	attachments := []handshake.Attachment{}
	for _, x := range valid {
		attachments = append(attachments, x.at())
	}
	return errors.Join(a.call(handshake.Request{Op: handshake.OpGC, Attachments: attachments}), a.sync())
}

func (a *real) lose(x *iface) error {
	return os.Remove(filepath.Join(a.state(), x.container+"."+x.name+".json"))
}

// check sends packets from and to all addresses in use, and looks where they arrive.
func (a *real) check(w *world) error {
	probes := a.probes(w)
	if len(probes) == 0 {
		return nil
	}
	results, err := a.lab.Probe(context.Background(), probes)
	if err != nil {
		return err
	}
	for _, r := range results {
		w.count("a packet that must arrive", r.Expect)
		w.count("a packet that must not", !r.Expect)
		if !r.AsExpected() {
			return fmt.Errorf("%s", r)
		}
		if i := slices.IndexFunc(r.At, func(h *lab.Host) bool { return h != r.To }); i >= 0 {
			return fmt.Errorf("%s, and at %s", r, r.At[i])
		}
	}
	return nil
}

// probes are those packets.
func (a *real) probes(w *world) (probes []lab.Probe) {
	ends := a.ends(w)
	outside := map[bool]place{}
	for _, ip := range a.outside.IPs {
		outside[ip.Is4()] = place{host: a.outside, ip: ip}
	}
	add := func(from, to place, open bool) {
		for _, packet := range packets(from.ip, to.ip) {
			probes = append(probes, lab.Probe{From: from.host, To: to.host, Packet: packet, Expect: open && w.passes(from.end, to.end, packet)})
		}
	}
	for i, one := range ends {
		v4 := one.ip.Is4()
		add(one, outside[v4], true)
		add(outside[v4], one, true)
		node := place{host: &a.node.Host, ip: own(one.ip)}
		if !w.ruleset.AllowToNode || one.closed {
			add(one, node, true)
		}
		if one.orphan {
			add(node, one, false)
		}
		for j, other := range ends {
			if i != j && other.ip.Is4() == v4 && one.host != other.host {
				add(one, other, true)
			}
		}
	}
	return probes
}

// place is an address where it really is, with what the agent must make of it.
type place struct {
	end
	host   *lab.Host
	ip     netip.Addr
	orphan bool
}

// ends are all addresses in use of which something is promised.
func (a *real) ends(w *world) (ends []place) {
	for _, x := range w.inUse() {
		p := podOf(x)
		for _, ip := range x.ips {
			if x.lost && w.unpromised(ip) || p != nil && ended(p) {
				continue
			}
			at := place{host: a.hosts[x], ip: ip, end: end{pod: p}, orphan: p == nil && !x.lost}
			if x.lost || p == nil {
				at.end = end{closed: true}
			}
			ends = append(ends, at)
		}
	}
	return ends
}
