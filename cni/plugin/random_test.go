package plugin_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/cni/plugin"
)

var (
	seed     = flag.Int64("seed", 1, "seed of the first node's random life; the others follow")
	duration = flag.Duration("duration", 0, "go on with random lives for so long")
)

// life is what has become of a container's interface.
type life int

const (
	over life = iota // nothing of it is there
	made             // its ADD has succeeded, and no DEL was tried
	torn             // its ADD or its DEL was cut short: some of it is there
	lost             // its namespace is gone, without a DEL
)

// container is an interface of a container, from its first ADD.
type container struct {
	*pod
	life life
	// stale says that the agent was not told of its end, aged that its leases are old.
	stale, aged bool
	// leased are the addresses that its last command has left it: nobody else's takes them.
	leased []string
}

func (c *container) at() string { return c.rt.ContainerID + "/" + c.rt.IfName }

// lives are a node's containers, in a random life of it.
type lives struct {
	*node
	r     *rand.Rand
	all   []*container
	steps []string
	away  bool // the agent
}

// TestRandomLives goes through the random lives of nodes: ADD, DEL, GC and reboots, which are
// killed after any step of theirs, with an agent that refuses or is away, namespaces that
// vanish, leases that get old, and others who take away what was made. After each step of it
// all that was made is there, nothing of what is over is, and nothing passes of which the
// agent does not know. In the end a GC leaves what was made, and nothing else. To see one
// again:
//
//	go test ./cni/plugin -run TestRandomLives -seed N
func TestRandomLives(t *testing.T) {
	began, ok := time.Now(), true
	for i := int64(0); ok && (i < 2 || time.Since(began) < *duration); i++ {
		ok = t.Run(fmt.Sprint(*seed+i), func(t *testing.T) { randomLives(t, *seed+i, 30) })
	}
}

func randomLives(t *testing.T, seed int64, length int) {
	l := &lives{r: rand.New(rand.NewSource(seed))}
	// Five addresses: they are used again soon, and run out.
	l.node = newNode(t, map[string]any{"podCIDRs": []string{"10.244.1.0/29", "fd00:10:244:1::/64"}})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, after these steps:\n%s", seed, strings.Join(l.steps, "\n"))
		}
	})
	for range length {
		l.step()
		if l.verify(); t.Failed() {
			return
		}
	}
	l.back()
	l.say("a GC")
	if err := l.collect(); err != nil {
		t.Errorf("GC: %v", err)
	}
	l.verify()
}

func (l *lives) say(format string, args ...any) {
	l.steps = append(l.steps, fmt.Sprintf(format, args...))
}

// step takes one step, of those that are possible.
func (l *lives) step() {
	l.t.Helper()
	steps := []struct {
		often int
		do    func()
	}{
		{12, func() { l.command(l.connect)(l.fresh()) }},
		{2, func() { l.with(l.command(l.connect), torn) }},
		{6, func() { l.with(l.command(l.end), made, torn, lost) }},
		{2, func() { l.with(l.command(l.end), over) }}, // a DEL comes again
		{2, func() { l.with(l.lose, made, torn) }},
		{3, func() { l.with(l.old, lost, torn) }},
		{3, l.gcStep},
		{2, func() { l.with(l.drift, made) }},
		{2, l.agentStep},
		{1, l.reboot},
	}
	total := 0
	for _, s := range steps {
		total += s.often
	}
	at := l.r.Intn(total)
	for _, s := range steps {
		if at -= s.often; at < 0 {
			s.do()
			return
		}
	}
}

// command notes what a container's command leaves it.
func (l *lives) command(do func(*container)) func(*container) {
	return func(c *container) {
		do(c)
		l.noteLeases(c)
	}
}

// with does something with one of those of some lives, if there are any.
func (l *lives) with(do func(*container), some ...life) {
	those := l.those(some...)
	if len(those) > 0 {
		do(those[l.r.Intn(len(those))])
	}
}

func (l *lives) those(some ...life) (those []*container) {
	for _, c := range l.all {
		if slices.Contains(some, c.life) {
			those = append(those, c)
		}
	}
	return those
}

// fresh is a new container, or a second interface of one that was made.
func (l *lives) fresh() *container {
	c := &container{}
	if those := l.those(made); len(those) > 0 && l.r.Intn(3) == 0 {
		c.pod = those[l.r.Intn(len(those))].interfaceOf(fmt.Sprint("net", len(l.all)))
	} else {
		c.pod = newPod(l.t, fmt.Sprint(len(l.all)))
	}
	l.all = append(l.all, c)
	return c
}

// Steps of the commands, after which they are killed.
var (
	addSteps  = []string{"leases", "bridge", "link", "pod settings", "pod addresses", "pod routes", "agent", "port", "host", "up"}
	delSteps  = []string{"link", "host", "agent", "leases"}
	gcSteps   = []string{"containers", "links", "routes", "neighbours"}
	errRefuse = errors.New("the agent refuses")
)

// killed has the plugin be killed after one of a command's steps.
func (l *lives) killed(command string, steps []string) string {
	step := command + " " + steps[l.r.Intn(len(steps))]
	l.broken(step)
	return step
}

// connect is an ADD.
func (l *lives) connect(c *container) {
	l.t.Helper()
	if c.fd < 0 {
		return // its namespace is gone
	}
	how, room := "", l.room(c)
	var step string
	if l.r.Intn(6) == 0 {
		l.tear()
	}
	switch l.r.Intn(8) {
	case 0, 1:
		step = l.killed("add", addSteps)
		how = ", killed after " + step
	case 2:
		l.agent.setAnswer(func(context.Context, handshake.Request) error { return errRefuse })
		how = ", refused"
		if l.r.Intn(2) == 0 {
			step = l.killed("undo", delSteps)
			how += ", killed after " + step
		}
	}
	l.say("ADD %s%s", c.at(), how)
	_, err := l.add(c.pod)
	l.repair()
	l.agent.setAnswer(nil)
	l.endedOld()
	unheard := l.away
	switch {
	case !room:
		if err == nil || step == "" && code(err) != int(plugin.CodeExhausted) {
			l.t.Errorf("ADD %s, with no address left: %v", c.at(), err)
		}
		// It may have been killed while it undid itself, but had nothing.
		c.life = over
	case err == nil:
		if how != "" || unheard {
			l.t.Errorf("ADD %s succeeds, though its agent has not answered it, or it was killed", c.at())
		}
		c.life, c.stale, c.aged = made, false, false
		for _, ip := range c.ips {
			// Nobody listens there, and the pod's kernel says so. (A socket would keep the
			// namespace, once that is to vanish.)
			if err := l.refusedBy(ip); !errors.Is(err, unix.ECONNREFUSED) {
				l.t.Errorf("ADD %s has succeeded, but from the node to %s: %v", c.at(), ip, err)
			}
		}
	case how == "" && !unheard:
		l.t.Errorf("ADD %s: %v", c.at(), err)
	case step == "" || unheard && strings.HasPrefix(step, "add ") && slices.Index(addSteps, strings.TrimPrefix(step, "add ")) > slices.Index(addSteps, "pod routes"):
		if code(err) != 11 {
			l.t.Errorf("ADD %s has the code %d, not that of an agent's refusal: %v", c.at(), code(err), err)
		}
		// It has undone itself. If the agent had heard of an earlier try, it may be away now.
		c.life, c.stale = over, c.stale || c.life == torn && l.away
	case unheard && strings.HasPrefix(step, "undo "):
		c.life, c.aged = torn, false
	default:
		c.life, c.aged = torn, false
	}
}

// tear has a lease be cut short, as by the kill of a process that writes it.
func (l *lives) tear() {
	owners := l.owners()
	for _, ip := range []string{"10.244.1.4", "10.244.1.6"} {
		if _, taken := owners[ip]; !taken && len(owners) > 0 {
			l.say("a lease of %s is cut short", ip)
			if err := os.WriteFile(l.lease(netip.MustParseAddr(ip)), []byte("c-"), 0o600); err != nil {
				l.t.Fatal(err)
			}
			return
		}
	}
}

// refusedBy is how a connection from the node to an address fails.
func (l *lives) refusedBy(ip netip.Addr) error {
	return l.do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(ip, 9).String(), 10*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// room reports whether there is an address for a container: it has one, or one is free, or
// has old leases and no link.
func (l *lives) room(c *container) bool {
	owners := l.owners()
	v4 := 0
	for ip, owner := range owners {
		if owner == c.at() {
			return true
		}
		if netip.MustParseAddr(ip).Is4() {
			v4++
		}
	}
	for _, other := range l.all {
		if other.aged && !l.hasLink(other) && v4 > 0 && len(leasesOf(owners, other)) > 0 {
			return true
		}
	}
	return v4 < 5
}

// leasesOf are a container's addresses, in order.
func leasesOf(owners map[string]string, c *container) (ips []string) {
	for ip, owner := range owners {
		if owner == c.at() {
			ips = append(ips, ip)
		}
	}
	slices.Sort(ips)
	return ips
}

// noteLeases notes what a command has left some containers.
func (l *lives) noteLeases(some ...*container) {
	owners := l.owners()
	for _, c := range some {
		c.leased = leasesOf(owners, c)
	}
}

// endedOld notes that an ADD has freed what has no link and has old leases.
func (l *lives) endedOld() {
	for _, c := range l.all {
		if c.aged && c.life != made && !l.hasLink(c) {
			c.life, c.aged, c.stale = over, false, true
		}
	}
}

// end is a DEL.
func (l *lives) end(c *container) {
	l.t.Helper()
	step := ""
	if l.r.Intn(4) == 0 {
		step = l.killed("del", delSteps)
	}
	l.say("DEL %s, killed after %q", c.at(), step)
	err := l.del(c.pod)
	l.repair()
	was := c.life
	switch {
	case step == "" && err != nil:
		l.t.Errorf("DEL %s: %v", c.at(), err)
	case step == "" || step == "del leases":
		c.life, c.stale, c.aged = over, (c.stale || was != over) && l.away, false
	case was == over:
	default:
		c.life = torn
	}
	if step != "" && err == nil {
		l.t.Errorf("DEL %s, killed after %s, succeeds", c.at(), step)
	}
}

// lose has a container's namespace go, with all its interfaces.
func (l *lives) lose(c *container) {
	l.t.Helper()
	l.say("the namespace of %s is lost", c.rt.ContainerID)
	for _, other := range l.all {
		if other.space == c.space && other.life != over {
			l.vanish(other.pod)
			other.life = lost
		}
	}
	c.close()
}

// old has the leases of what was cut short, or lost, be an hour old.
func (l *lives) old(c *container) {
	l.say("the leases of %s get old", c.rt.ContainerID)
	for _, other := range l.all { // leases are a container's
		if other.rt.ContainerID == c.rt.ContainerID && other.life != over {
			other.aged = true
		}
	}
	l.age(c.pod)
}

// gcStep is a GC, which may be killed.
func (l *lives) gcStep() {
	step := ""
	if l.r.Intn(3) == 0 {
		step = l.killed("gc", gcSteps)
	}
	l.say("GC, killed after %q", step)
	err := l.collect()
	l.repair()
	l.noteLeases(l.all...)
	if (step != "" || l.away) != (err != nil) {
		l.t.Errorf("GC, killed after %q, the agent away: %t: %v", step, l.away, err)
	}
}

// collect is a GC; what was made is valid.
func (l *lives) collect() error {
	var valid []*pod
	alive := map[string]bool{}
	for _, c := range l.those(made) {
		valid = append(valid, c.pod)
		alive[c.rt.ContainerID] = true
	}
	err := l.gc(valid...)
	for _, c := range l.those(over, torn, lost) {
		switch {
		case alive[c.rt.ContainerID] && l.hasLink(c): // it may be one that the runtime does not list
		case err == nil:
			c.life, c.stale, c.aged = over, alive[c.rt.ContainerID], false
		case l.away && c.life != over && l.bin == binDir: // all but the agent's part is done
			c.life, c.stale, c.aged = over, true, false
		}
	}
	return err
}

// agentStep stops the agent, or has it come back.
func (l *lives) agentStep() {
	if l.away {
		l.back()
		return
	}
	l.say("the agent goes")
	l.agent.stop()
	l.away = true
}

func (l *lives) back() {
	if l.away {
		l.say("the agent comes back")
		l.agent.start()
		l.away = false
	}
}

// reboot ends all but what is on disk, and has a pod start.
func (l *lives) reboot() {
	l.t.Helper()
	l.say("the node reboots")
	for _, c := range l.those(made, torn, lost) {
		l.vanish(c.pod)
	}
	l.must(func() error {
		bridge, err := netlink.LinkByName("podfence0")
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return errors.Join(err, netlink.LinkDel(bridge))
	})
	l.back()
	l.agent.mu.Lock()
	clear(l.agent.pods)
	l.agent.mu.Unlock()
	for _, c := range l.all {
		c.life, c.stale, c.aged = over, false, false
	}
	boot := filepath.Join(l.conf["dataDir"].(string), l.conf["name"].(string), "boot")
	if _, err := os.Stat(boot); err != nil {
		return // there was no ADD yet
	}
	if err := os.WriteFile(boot, []byte("8c7e2d5a-0000-4000-8000-000000000000\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	c := l.fresh()
	l.say("ADD %s", c.at())
	if _, err := l.add(c.pod); err != nil {
		l.t.Errorf("ADD %s: %v", c.at(), err)
	}
	c.life = made
	l.noteLeases(c)
}

// drift has somebody take away something that was made: CHECK says so. Then kubelet makes the
// pod anew.
func (l *lives) drift(c *container) {
	l.t.Helper()
	ip := c.ips[l.r.Intn(len(c.ips))]
	host := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
	name := plugin.LinkName(c.rt.ContainerID, c.rt.IfName)
	on := func(name string, do func(netlink.Link) error) func() error {
		return func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return do(link)
		}
	}
	drifts := []struct {
		what string
		in   *space
		do   func() error
	}{
		{"route", l.space, on("podfence0", func(b netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: b.Attrs().Index, Dst: host, Scope: netlink.SCOPE_NOWHERE})
		})},
		{"neighbour", l.space, on("podfence0", func(b netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: b.Attrs().Index, IP: ip.AsSlice(), HardwareAddr: plugin.PodMAC(c.rt.ContainerID, c.rt.IfName)})
		})},
		{"port", l.space, on(name, netlink.LinkSetNoMaster)},
		{"link", l.space, on(name, netlink.LinkSetDown)},
		{"learning", l.space, on(name, func(p netlink.Link) error { return netlink.LinkSetLearning(p, true) })},
		{"flooding", l.space, on(name, func(p netlink.Link) error { return netlink.LinkSetFlood(p, true) })},
		{"address in the pod", c.space, on(c.rt.IfName, func(p netlink.Link) error { return netlink.AddrDel(p, &netlink.Addr{IPNet: host}) })},
		{"lease", l.space, func() error { return os.Remove(l.lease(ip)) }},
	}
	d := drifts[l.r.Intn(len(drifts))]
	l.say("somebody takes the %s of %s, %s", d.what, c.at(), ip)
	d.in.must(d.do)
	if err := l.check(c.pod); err == nil {
		l.t.Errorf("CHECK %s misses nothing", c.at())
	}
	l.say("DEL %s", c.at())
	l.mustDel(c.pod)
	c.life, c.stale = over, l.away
	// Without its lease, its DEL does not know its addresses: a GC does.
	if d.what == "lease" {
		if err := l.collect(); (err != nil) != l.away {
			l.t.Errorf("GC: %v", err)
		}
	}
}

// owners are the leases' owners, by address.
func (l *lives) owners() map[string]string {
	owners := map[string]string{}
	for _, ip := range l.leases() {
		text, err := os.ReadFile(filepath.Join(l.conf["dataDir"].(string), l.conf["name"].(string), ip))
		if err != nil {
			l.t.Fatal(err)
		}
		owners[ip] = strings.ReplaceAll(strings.TrimSpace(string(text)), "\r\n", "/")
	}
	return owners
}

// hasLink reports whether a container's link is there, and passes whether it can send by it.
func (l *lives) hasLink(c *container) bool { is, _ := l.link(c); return is }

func (l *lives) link(c *container) (is, passes bool) {
	l.must(func() error {
		link, err := netlink.LinkByName(plugin.LinkName(c.rt.ContainerID, c.rt.IfName))
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err == nil {
			is, passes = true, link.Attrs().Flags&net.FlagUp != 0 || link.Attrs().MasterIndex != 0
		}
		return err
	})
	return is, passes
}

// verify compares what is there with what must be.
func (l *lives) verify() {
	l.t.Helper()
	owners, known := l.owners(), l.agent.known()
	knows := func(c *container) bool { return slices.Contains(known, c.at()) }
	expected := map[string]bool{} // traces that may be there
	for _, c := range l.all {
		is, passes := l.link(c)
		if passes && !knows(c) {
			l.t.Errorf("%s can send, and the agent does not know of it", c.at())
		}
		switch c.life {
		case over:
			if is || len(leasesOf(owners, c)) > 0 || knows(c) && !c.stale {
				l.t.Errorf("%s is over, but there is: link %t, leases %v, agent %v", c.at(), is, owners, known)
			}
		case made:
			l.verifyMade(c, owners)
			fallthrough
		default:
			expected["link "+plugin.LinkName(c.rt.ContainerID, c.rt.IfName)] = true
			if has := leasesOf(owners, c); !c.aged && !slices.Equal(has, c.leased) {
				l.t.Errorf("%s had the leases %v, and has %v", c.at(), c.leased, has)
			}
		}
		if c.life != over || c.stale {
			expected["agent "+c.at()] = true
		}
	}
	for ip := range owners {
		addr := netip.MustParseAddr(ip)
		expected["lease "+ip], expected["neighbour "+ip] = true, true
		expected["route "+netip.PrefixFrom(addr, addr.BitLen()).String()] = true
	}
	for _, trace := range l.traces() {
		if !expected[trace] {
			l.t.Errorf("%s is nobody's", trace)
		}
	}
}

// verifyMade makes sure that all that ADD has made is there.
func (l *lives) verifyMade(c *container, owners map[string]string) {
	l.t.Helper()
	if err := l.check(c.pod); err != nil {
		l.t.Errorf("CHECK %s: %v", c.at(), err)
	}
	if has := leasesOf(owners, c); len(c.ips) != 2 || len(has) != 2 {
		l.t.Errorf("%s has the addresses %v, and the leases %v", c.at(), c.ips, has)
	}
	for _, ip := range c.ips {
		if owners[ip.String()] != c.at() {
			l.t.Errorf("%s of %s is leased to %q", ip, c.at(), owners[ip.String()])
		}
	}
	said := l.agent.said(c.pod)
	if !slices.Equal(said.IPs, c.ips) || said.Pod.Name == "" || said.MAC != plugin.PodMAC(c.rt.ContainerID, c.rt.IfName).String() ||
		said.HostInterface != plugin.LinkName(c.rt.ContainerID, c.rt.IfName) {
		l.t.Errorf("the agent was told of %s, at %v: %+v", c.at(), c.ips, said)
	}
}
