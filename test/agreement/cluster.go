package agreement

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// The hosts that every Cluster has, besides its node and its pods.
const (
	OtherNode = random.OtherNode
	// World has the first addresses outside the cluster, Elsewhere the others.
	World     = "world"
	Elsewhere = "elsewhere"
	// Stranger has addresses of the node's pod range that no pod has.
	Stranger = "stranger"
)

// StrangerAddrs are the Stranger's.
var StrangerAddrs = random.Strangers

// Options say what kind of cluster to make.
type Options struct {
	// Attach is how the node's pods are attached. Bridged pods are those with
	// an address in the node's pod ranges: the others are no neighbours of
	// theirs. So are Guarded ones, which only Options with a Guard are for.
	Attach lab.Attach
	Lab    lab.Options
}

// Cluster is a lab with one fenced node. It is for one goroutine at a time.
type Cluster struct {
	Lab  *lab.Lab
	Node *lab.Node

	attach  lab.Attach
	conn    *kernel.Conn
	reader  *kernel.Reader // of the connection
	options ruleset.Options
	// snapshot is what the model was told, table what came of it.
	snapshot policy.Snapshot
	model    *policy.Model
	table    *ruleset.Table
	// guard is the table of family bridge, where the pods are guarded.
	guard *ruleset.Guard
	// pods are the lab's hosts that stand for pods, truth what Settle has said of them.
	pods  map[string]*lab.Host
	truth Homes
	// flows is where Revoke marks flows; nil until then.
	flows *kernel.Flows
	// told is what the node's kernel tells of denied packets. Told counts the flows that it was compared for.
	told *told
	Told int
	// staged is the table of staged policies. ToldStaged counts the flows that it would deny, and has told of.
	staged     staged
	ToldStaged int
}

// New makes a cluster without pods, its node without a table.
func New(o Options) (*Cluster, error) {
	l, err := lab.New(o.Lab)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: l, attach: o.Attach, pods: map[string]*lab.Host{}}
	if err := c.furnish(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) furnish() (err error) {
	if c.Node, err = c.Lab.AddNode(random.Node, random.OwnAddrs...); err != nil {
		return err
	}
	external := random.Remote()
	external[World] = []netip.Addr{random.Outside[0], random.Outside[2], random.Metadata[0]}
	external[Elsewhere] = []netip.Addr{random.Outside[1], random.Outside[3]}
	for name, addrs := range external {
		if _, err := c.Node.AddExternal(name, addrs...); err != nil {
			return err
		}
	}
	stranger, err := c.Node.AddPod(Stranger, lab.PodOptions{IPs: StrangerAddrs, Attach: c.attachOf(StrangerAddrs)})
	if err != nil {
		return err
	}
	if err := c.furnishPort(stranger); err != nil {
		return err
	}
	if err := c.ResetRuleset(); err != nil {
		return err
	}
	for setting, value := range trackingSettings {
		if err := c.Node.SetSysctl("net/netfilter/nf_conntrack_"+setting, value); err != nil {
			return err
		}
	}
	return c.Reconnect()
}

// trackingSettings have connection tracking keep flows for longer than a batch of packets takes
// on a busy machine, in seconds, those included that their receivers' stacks reset at once. And
// segments may follow that one without asking for their numbers, as no socket has made them.
var trackingSettings = map[string]string{
	"tcp_timeout_close": "120", "tcp_timeout_syn_sent": "120", "tcp_timeout_syn_recv": "120",
	"udp_timeout": "120", "icmp_timeout": "120", "icmpv6_timeout": "120", "tcp_be_liberal": "1",
}

// ResetRuleset leaves of the node's ruleset nothing but what stands for others' rules: Services,
// and Treatments.
func (c *Cluster) ResetRuleset() error { return c.NFT("flush ruleset\n" + hairpin + treatments()) }

// hairpin stands for one Service per pod, that leads to no other: what a pod
// sends to Hairpin's address comes back to it. Only so does a packet to the
// pod's own address get out of the pod.
const hairpin = `table inet hairpin {
	chain prerouting {
		type nat hook prerouting priority dstnat
		dnat ip prefix to ip daddr map { 198.18.0.0/16 : 10.244.0.0/16 }
		dnat ip6 prefix to ip6 daddr map { fd00:18::/32 : fd00:244::/32 }
	}
}
`

// Hairpin is the address by which a pod's packets come back to it.
func Hairpin(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		bytes := addr.As4()
		bytes[0], bytes[1] = 198, 18
		return netip.AddrFrom4(bytes)
	}
	bytes := addr.As16()
	bytes[2], bytes[3] = 0x00, 0x18
	return netip.AddrFrom16(bytes)
}

// Close takes the lab down.
func (c *Cluster) Close() error {
	var errs []error
	if c.conn != nil {
		errs = append(errs, c.conn.Close(), c.staged.disconnect())
	}
	if c.flows != nil {
		errs = append(errs, c.flows.Close())
	}
	if c.told != nil {
		errs = append(errs, c.told.close())
	}
	return errors.Join(append(errs, c.Lab.Close())...)
}

// Reconnect hangs up on the kernel, if there is a connection, and opens a new
// one, as an agent does that starts again.
func (c *Cluster) Reconnect() error {
	if err := c.Disconnect(); err != nil {
		return err
	}
	conn, err := kernel.Open(kernel.Options{NetNS: c.Node.NetNS()})
	if err != nil {
		return fmt.Errorf("node %s: %w", c.Node.Name, err)
	}
	c.conn = conn
	if err := c.staged.reconnect(c.Node); err != nil {
		return fmt.Errorf("node %s: %w", c.Node.Name, err)
	}
	if c.reader, err = conn.OpenReader(kernel.Options{NetNS: c.Node.NetNS()}); err != nil {
		return fmt.Errorf("node %s: %w", c.Node.Name, err)
	}
	return nil
}

// Disconnect hangs up on the kernel.
func (c *Cluster) Disconnect() error {
	if err := c.staged.disconnect(); err != nil || c.conn == nil {
		return err
	}
	conn, reader := c.conn, c.reader
	c.conn, c.reader = nil, nil
	if reader == nil {
		return conn.Close()
	}
	return errors.Join(reader.Close(), conn.Close())
}

// Replace makes the node enforce a snapshot from scratch: a model of its own,
// a built table, one replacement. The lab gets the pods first.
func (c *Cluster) Replace(s policy.Snapshot, o ruleset.Options) error {
	if err := c.settle(s); err != nil {
		return err
	}
	if o.LogGroup != 0 && c.told == nil { // an agent at this node would have the group
		var err error
		if c.told, err = hear(c.Node); err != nil {
			return err
		}
	}
	c.options, c.snapshot, c.model, c.staged.model = o, policy.Snapshot{}, policy.NewModel(random.Node), nil
	c.feed(s)
	c.table = ruleset.Build(c.model.Intent(), o)
	return errors.Join(c.conn.Apply(c.table.Replacement()), c.staged.replace(c.model, o), c.replaceGuard())
}

// Set changes what the node enforces to another snapshot, by the plans that the
// difference takes, and returns them as one.
func (c *Cluster) Set(s policy.Snapshot) (nft.Plan, error) {
	if err := c.settle(s); err != nil {
		return nft.Plan{}, err
	}
	c.feed(s)
	return c.update()
}

// Elapse has the node know what time it is: what expires now or before counts no more for new connections. It returns the
// plans that this takes as one.
func (c *Cluster) Elapse(now time.Time) (nft.Plan, error) {
	c.apply(policy.Elapsed(now))
	return c.update()
}

// update carries out what has changed in the model, and returns the plans as one.
func (c *Cluster) update() (nft.Plan, error) {
	var all nft.Plan
	for first := true; first || c.model.Pending(); first = false {
		plan := c.table.Update(c.model.Take())
		if err := c.conn.Apply(plan); err != nil {
			return plan, err
		}
		all.Ops = append(all.Ops, plan.Ops...)
	}
	if err := c.staged.update(); err != nil {
		return all, err
	}
	if c.guard == nil {
		return all, nil
	}
	plan := c.guard.UpdateGuard(c.attachments(), ruleset.Gateway{MAC: c.gatewayMAC()})
	return all, c.conn.Apply(plan)
}

// settle makes the lab what a snapshot says, or Settle has said.
func (c *Cluster) settle(s policy.Snapshot) error {
	if c.truth != nil {
		return c.house(c.truth)
	}
	return c.house(homes(s))
}

// replaceGuard makes the table of family bridge anew, where there is to be one.
func (c *Cluster) replaceGuard() error {
	if c.guard = nil; !c.options.Guard {
		return nil
	}
	c.guard = ruleset.BuildGuard(c.attachments(), ruleset.Gateway{MAC: c.gatewayMAC()}, c.options.Fragments)
	if c.options.LogGroup != 0 {
		c.guard.Tell(c.options.LogGroup)
	}
	return c.conn.Apply(c.guard.Replacement())
}

// gatewayMAC is the hardware address of the node's bridge.
func (c *Cluster) gatewayMAC() [6]byte { return [6]byte(c.Lab.Host(Stranger).Gateway()) }

// Options are those that the table was made with.
func (c *Cluster) Options() ruleset.Options { return c.options }

// Attach is how the node's pods are attached.
func (c *Cluster) Attach() lab.Attach { return c.attach }

// Table is what the kernel should hold.
func (c *Cluster) Table() *ruleset.Table { return c.table }

// feed tells the model of the difference between two snapshots.
func (c *Cluster) feed(s policy.Snapshot) {
	// In between the node may have had ranges that it has not any more, and an agent would know.
	if !slices.Equal(c.snapshot.LastPodCIDRs, s.LastPodCIDRs) {
		c.apply(policy.SetNode(policy.Node{Name: random.Node, PodCIDRs: s.LastPodCIDRs}))
		c.snapshot.Nodes = slices.DeleteFunc(slices.Clone(c.snapshot.Nodes), func(n *corev1.Node) bool { return n.Name == random.Node })
		if !slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool { return n.Name == random.Node }) {
			c.apply(policy.DeleteNode(random.Node))
		}
	}
	for _, event := range difference(c.snapshot, s) {
		c.apply(event.Change())
	}
	c.apply(policy.Resolved(s.Resolutions))
	c.snapshot = s
}

// Resolutions are what domain names are resolved to at the node, as far as that counts: what pods were told, and lost with
// their addresses, does not.
func (c *Cluster) Resolutions() []policy.Resolution { return c.model.Resolutions() }

// apply tells both models of a change.
func (c *Cluster) apply(change policy.Change) {
	c.model.Apply(change)
	if c.staged.model != nil {
		c.staged.model.Apply(change)
	}
}

// NFT gives commands to nft inside the node. Tests keep their own rules in
// tables of their own.
func (c *Cluster) NFT(commands string) error {
	_, err := c.Run(&c.Node.Host, commands, "nft", "-f", "-")
	return err
}

// Run runs a program inside a host and returns what it prints.
func (c *Cluster) Run(h *lab.Host, stdin, name string, args ...string) (string, error) {
	var out []byte
	err := h.Do(func() (err error) {
		// The child is forked from this thread, so it is in its namespace.
		command := exec.Command(name, args...)
		command.Stdin = strings.NewReader(stdin)
		if out, err = command.CombinedOutput(); err != nil {
			err = fmt.Errorf("%s %s in %s: %w: %s", name, strings.Join(args, " "), h.Name, err, out)
		}
		return err
	})
	return string(out), err
}
