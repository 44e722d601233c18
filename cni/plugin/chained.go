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
	request := handshake.Request{
		Op: handshake.OpAdd, ContainerID: args.ContainerID, IfName: args.IfName, Pod: pod, NetNS: args.Netns,
	}
	for _, ip := range conf.PrevResult.IPs {
		in, err := inPod(conf.PrevResult, ip)
		if err != nil {
			return invalidConfig(fmt.Errorf("prevResult: %w", err))
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return invalidConfig(fmt.Errorf("prevResult: address %s", ip.Address.IP))
		}
		if in != nil {
			request.IPs = append(request.IPs, addr.Unmap())
			request.MAC = cmp.Or(request.MAC, in.Mac)
		}
	}
	if len(request.IPs) == 0 {
		return invalidConfig(errors.New("prevResult: no address of an interface in the pod"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), conf.Timeout())
	defer cancel()
	if err := handshake.Call(ctx, conf.Socket, request); err != nil {
		r := removal{conf: conf, at: attachment{args.ContainerID, args.IfName}, tell: true}
		_ = r.tellAgent()
		return agentError(err)
	}
	return types.PrintResult(conf.PrevResult, conf.CNIVersion)
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
