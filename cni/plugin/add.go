package plugin

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/handshake"
)

// addition is an ADD under way.
type addition struct {
	conf *Config
	at   attachment
	pod  handshake.Pod
	// netns is the path of the pod's namespace; inside is what is in it.
	netns  string
	inside *podNS
	host   *netlink.Handle

	mtu   int
	addrs []netip.Addr
	// first says of each address whether the pod's default route is by this interface.
	first  []bool
	bridge netlink.Link
	link   netlink.Link
	// announced says that the agent may have heard of the pod.
	announced bool
}

// addSteps are ADD. Up to the last one, the host's end of the pod's link is
// down: nothing passes before the agent has answered.
var addSteps = []step[*addition]{
	{"leases", (*addition).takeLeases},
	{"bridge", (*addition).takeBridge},
	{"link", (*addition).makeLink},
	{"pod settings", (*addition).makeSettings},
	{"pod addresses", (*addition).addAddresses},
	{"pod routes", (*addition).addRoutes},
	{"agent", (*addition).askAgent},
	{"port", (*addition).makePort},
	{"host", (*addition).reachPod},
	{"up", (*addition).setUp},
}

// Add is ADD: it connects a pod, tells the agent and prints the result. An ADD
// that fails has undone itself. Its errors have the CNI codes 4 (the environment:
// no such network namespace, no pod in CNI_ARGS), 6 and 7 (the configuration),
// 8 (the network namespace is the node's), 11 (the agent) and CodeExhausted, or
// 999.
func (p Plugin) Add(args *skel.CmdArgs) error {
	conf, err := ReadConfig(args.StdinData)
	if err != nil {
		return err
	}
	pod, err := readPod(args.Args)
	if err != nil {
		return err
	}
	if conf.Chained() {
		return addChained(conf, args, pod)
	}
	if len(conf.PodCIDRs) == 0 {
		return invalidConfig(errors.New("podCIDRs: there are none"))
	}
	inside, err := openPod(args.Netns, args.IfName)
	if err != nil {
		return err
	}
	defer inside.close()
	host, err := openHost()
	if err != nil {
		return err
	}
	defer host.Close()
	a := &addition{
		conf: conf, at: attachment{args.ContainerID, args.IfName}, pod: pod,
		netns: args.Netns, inside: inside, host: host,
	}
	done := false
	defer func() {
		if !done {
			// What can't be undone now is undone by the runtime's DEL or GC, because
			// the leases are removed last. The error that matters is ADD's.
			_ = a.undo(p)
		}
	}()
	if err := run(p, "add", addSteps, a); err != nil {
		return err
	}
	if err := types.PrintResult(a.result(), conf.CNIVersion); err != nil {
		return err
	}
	done = true
	return nil
}

func (a *addition) undo(p Plugin) error {
	return (&removal{conf: a.conf, at: a.at, host: a.host, tell: a.announced}).run(p, "undo")
}

// takeLeases is the first step, because all that later steps make can be found again by what
// this one leaves on disk.
func (a *addition) takeLeases() error {
	l, err := openLeases(a.conf)
	if err != nil {
		return err
	}
	// That leases can't be freed matters only if no address is left.
	lost := l.endLost(a.host, a.conf.Bridge)
	if a.addrs, err = l.allocate(a.at, a.conf.PodCIDRs); err != nil {
		err = errors.Join(err, lost)
	}
	return errors.Join(err, l.close())
}

func (a *addition) takeBridge() (err error) {
	if a.mtu = a.conf.MTU; a.mtu == 0 {
		if a.mtu, err = uplinkMTU(a.host); err != nil {
			return err
		}
	}
	a.bridge, err = ensureBridge(a.host, a.conf)
	return err
}

func (a *addition) makeLink() (err error) {
	if a.link, err = makeLink(a.host, a.at, a.inside.fd, a.mtu); err != nil {
		return err
	}
	return stillHas(a.conf, a.at, a.addrs)
}

func (a *addition) makeSettings() error { return a.inside.prepare(hasIPv6(a.addrs)) }

func (a *addition) addAddresses() error { return a.inside.addressed(a.addrs) }

func (a *addition) addRoutes() (err error) {
	a.first, err = a.inside.routed(a.addrs, gateways(a.conf), a.bridge.Attrs().HardwareAddr)
	return err
}

func (a *addition) mac() net.HardwareAddr { return PodMAC(a.at.containerID, a.at.ifName) }

// askAgent returns when the pod's rules are in the kernel.
func (a *addition) askAgent() error {
	ctx, cancel := context.WithTimeout(context.Background(), a.conf.Timeout())
	defer cancel()
	a.announced = true
	return agentError(handshake.Call(ctx, a.conf.Socket, handshake.Request{
		Op: handshake.OpAdd, ContainerID: a.at.containerID, IfName: a.at.ifName, Pod: a.pod, Mode: handshake.ModeBridge,
		IPs: a.addrs, MAC: a.mac().String(), HostInterface: a.link.Attrs().Name, NetNS: a.netns,
		Unserved: a.conf.unserved(),
	}))
}

func (a *addition) makePort() error { return makePort(a.host, a.link, a.bridge, a.mac()) }

func (a *addition) reachPod() error { return reach(a.host, a.bridge, a.addrs, a.mac()) }

// setUp lets packets pass, and waits until they do.
func (a *addition) setUp() error {
	if err := a.host.LinkSetUp(a.link); err != nil {
		return err
	}
	if err := awaitUp(a.host, a.link); err != nil {
		return err
	}
	if err := awaitForwarding(a.link); err != nil {
		return err
	}
	if err := awaitUp(a.host, a.bridge); err != nil {
		return err
	}
	for _, gateway := range gateways(a.conf) {
		if err := awaitLocal(a.host, gateway); err != nil {
			return err
		}
	}
	return a.inside.awaitReady(a.addrs)
}

// gateways are the first addresses of the pod CIDRs.
func gateways(c *Config) []netip.Addr {
	var all []netip.Addr
	for _, p := range c.PodCIDRs {
		all = append(all, Gateway(p))
	}
	return all
}

// result is what the runtime is told.
func (a *addition) result() *current.Result {
	host, pod := a.link.Attrs(), 2
	result := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		DNS:        a.conf.DNS,
		Interfaces: []*current.Interface{
			{Name: a.conf.Bridge, Mac: a.bridge.Attrs().HardwareAddr.String()},
			{Name: host.Name, Mac: host.HardwareAddr.String(), Mtu: a.mtu},
			{Name: a.at.ifName, Mac: a.mac().String(), Mtu: a.mtu, Sandbox: a.netns},
		},
	}
	for i, addr := range a.addrs {
		gateway := Gateway(a.conf.PodCIDRs[i])
		result.IPs = append(result.IPs, &current.IPConfig{
			Interface: &pod, Address: *network(netip.PrefixFrom(addr, addr.BitLen())), Gateway: gateway.AsSlice(),
		})
		if a.first[i] {
			result.Routes = append(result.Routes, &types.Route{Dst: *network(everything(addr)), GW: gateway.AsSlice()})
		}
	}
	return result
}
