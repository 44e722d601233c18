package plugin

import (
	"context"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podfence/podfence/cni/handshake"
)

// Status is STATUS: whether the node's network is ready. It returns nil once the
// agent has made its first commit since the node has started, also while no agent
// answers: the rules are in the kernel, and pods that run go on. To refuse then would
// make the whole node NotReady, take its pods out of their Services and in the end
// evict them, because no pod can be added for a moment; ADD asks the agent itself, and
// fails by itself. Otherwise its error has the CNI code 50, or 6 and 7 (the
// configuration).
func (p Plugin) Status(args *skel.CmdArgs) error {
	conf, err := ReadConfig(args.StdinData)
	if err != nil {
		return err
	}
	if !conf.Chained() && len(conf.PodCIDRs) == 0 {
		return notAvailable("the network configuration has no podCIDRs: the node has not been given any yet")
	}
	// If the note cannot be read, it is as if it did not exist: the agent is asked.
	if committed, err := handshake.Committed(conf.Socket); err == nil && committed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), conf.Timeout())
	defer cancel()
	if err := handshake.Call(ctx, conf.Socket, handshake.Request{Op: handshake.OpStatus}); err != nil {
		return notAvailable("no rules have been committed since this node has started: " + err.Error())
	}
	// The agent has noted that as well. But a container may see another boot id than its
	// node, where the node is a container itself (LXC); and to ask once more does no harm.
	_ = handshake.NoteCommit(conf.Socket)
	return nil
}

// notAvailable is the specification's code 50.
func notAvailable(why string) error { return types.NewError(types.ErrPluginNotAvailable, why, "") }
