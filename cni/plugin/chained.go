package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podfence/podfence/cni/handshake"
)

// addChained is ADD behind another plugin, which has connected the pod: it tells
// the agent, and passes the other's result on. Nothing of the pod runs before
// the whole chain has answered. If this fails, the runtime has the other plugin
// undo its part.
func addChained(conf *Config, args *skel.CmdArgs, pod handshake.Pod) error {
	if conf.PrevResult == nil {
		return invalidConfig(errors.New("mode chained: there is no prevResult, another plugin must be before this one"))
	}
	request, err := chainedRequest(conf.PrevResult)
	if err != nil {
		return invalidConfig(fmt.Errorf("prevResult: %w", err))
	}
	request.ContainerID, request.IfName, request.Pod, request.NetNS = args.ContainerID, args.IfName, pod, args.Netns
	request.HostInterface = hostEnd(args.Netns, args.IfName)
	ctx, cancel := context.WithTimeout(context.Background(), conf.Timeout())
	defer cancel()
	if err := handshake.Call(ctx, conf.Socket, request); err != nil {
		r := removal{conf: conf, at: attachment{args.ContainerID, args.IfName}, tell: true}
		_ = r.tellAgent()
		return agentError(err)
	}
	return types.PrintResult(conf.PrevResult, conf.CNIVersion)
}

// hostEnd is the node's end of the pod's link, if the link is one of a pair. It is asked of the
// kernel, which knows it better than another plugin's result. It is empty if the kernel cannot
// tell: the agent then looks for it, and treats every link that may be it as an isolated pod's.
func hostEnd(netns, ifName string) string {
	pod, err := openPod(netns, ifName)
	if err != nil {
		return ""
	}
	defer pod.close()
	link, err := pod.handle.LinkByName(ifName)
	if err != nil || link.Type() != "veth" && link.Type() != "netkit" {
		return ""
	}
	host, err := openHost()
	if err != nil {
		return ""
	}
	defer host.Close()
	end, err := host.LinkByIndex(link.Attrs().ParentIndex)
	if err != nil || end.Type() != link.Type() || end.Attrs().ParentIndex != link.Attrs().Index {
		return ""
	}
	// Indices are each namespace's own: the other end of this one must be in the pod's.
	if id, err := host.GetNetNsIdByFd(pod.fd); err != nil || id != end.Attrs().NetNsID {
		return ""
	}
	return end.Attrs().Name
}

// chainedRequest is an add of the addresses that the plugin before has given to
// the pod.
func chainedRequest(result *current.Result) (handshake.Request, error) {
	request := handshake.Request{Op: handshake.OpAdd, Mode: handshake.ModeChained}
	for _, ip := range result.IPs {
		in, err := inPod(result, ip)
		if err != nil {
			return request, err
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return request, fmt.Errorf("address %s", ip.Address.IP)
		}
		if in != nil {
			request.IPs = append(request.IPs, addr.Unmap())
			request.MAC = cmp.Or(request.MAC, in.Mac)
		}
	}
	if len(request.IPs) == 0 {
		return request, errors.New("no address of an interface in the pod")
	}
	return request, nil
}

// inPod returns the interface in the pod that has an address, nil if it is one
// of the node's. An address that doesn't say where it is can only be the pod's.
func inPod(result *current.Result, ip *current.IPConfig) (*current.Interface, error) {
	if ip.Interface == nil {
		return &current.Interface{}, nil
	}
	i := *ip.Interface
	if i < 0 || i >= len(result.Interfaces) {
		return nil, fmt.Errorf("address %s has interface %d of %d", ip.Address.IP, i, len(result.Interfaces))
	}
	if result.Interfaces[i].Sandbox == "" {
		return nil, nil
	}
	return result.Interfaces[i], nil
}
