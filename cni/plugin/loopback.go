package plugin

import (
	"encoding/json"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// LoopbackType is the type of the plugin that brings up a pod's own lo.
// Container runtimes call it before the network's plugins. They start no pod without it, except
// those that are configured to bring lo up themselves.
const LoopbackType = "loopback"

// Loopback is that plugin, for nodes that have no other. What it brings up goes
// away with the pod's network namespace, so there is nothing to remove.
type Loopback struct{}

// Funcs are the commands as skel wants them.
func (Loopback) Funcs() skel.CNIFuncs {
	done := func(*skel.CmdArgs) error { return nil }
	return skel.CNIFuncs{Add: addLoopback, Check: checkLoopback, Del: done, GC: done, Status: done}
}

func addLoopback(args *skel.CmdArgs) error {
	conf := types.PluginConf{}
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network configuration: %v", err), "")
	}
	err := withLoopback(args, func(pod *netlink.Handle, lo netlink.Link) error {
		if err := pod.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	result := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{{Name: args.IfName, Mac: "00:00:00:00:00:00", Sandbox: args.Netns}},
		IPs: []*current.IPConfig{
			{Interface: current.Int(0), Address: net.IPNet{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(8, 32)}},
			{Interface: current.Int(0), Address: net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}},
		},
	}
	return types.PrintResult(result, conf.CNIVersion)
}

func checkLoopback(args *skel.CmdArgs) error {
	return withLoopback(args, func(_ *netlink.Handle, lo netlink.Link) error {
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return drift("lo is down")
		}
		return nil
	})
}

// withLoopback calls f with the pod's lo.
func withLoopback(args *skel.CmdArgs, f func(*netlink.Handle, netlink.Link) error) error {
	fd, err := openNetNS(args.Netns)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return netns.Inside(fd, func() error {
		pod, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer pod.Close()
		lo, err := pod.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("the pod's lo: %w", err)
		}
		return f(pod, lo)
	})
}
