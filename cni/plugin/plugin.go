package plugin

import (
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Plugin is the commands of the CNI specification, each a method that
// github.com/containernetworking/cni/pkg/skel calls. The zero value is ready.
//
// The methods work in the network namespace of their process, and may run
// concurrently in any number of processes; in one process, one at a time.
type Plugin struct {
	// After, if not nil, is called after each step of a command, with the
	// command and the step, such as "add leases". What it does is between the
	// steps.
	After func(step string)
}

// Funcs are the commands as skel wants them.
func (p Plugin) Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{Add: p.Add, Del: p.Del, Check: p.Check, GC: p.GC, Status: p.Status}
}

// Versions are the versions of the CNI specification that the plugin speaks:
// those of which container runtimes for Kubernetes have made use.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// step is one of the steps of a command, on the state that they share.
type step[T any] struct {
	name string
	do   func(T) error
}

// run takes the steps of a command until one fails.
func run[T any](p Plugin, command string, steps []step[T], state T) error {
	for _, s := range steps {
		if err := s.do(state); err != nil {
			return err
		}
		if p.After != nil {
			p.After(command + " " + s.name)
		}
	}
	return nil
}

// openHost connects to the node's links and routes: those of the namespace that
// the plugin was started in.
func openHost() (*netlink.Handle, error) {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return host, nil
}
