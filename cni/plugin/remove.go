package plugin

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/handshake"
)

// delTimeout is how long DEL waits for the agent. DEL doesn't need it: an agent that is not there
// learns of the DEL from GC, or from the API server.
const delTimeout = time.Second

// removal is a DEL under way, or an ADD that is undone.
type removal struct {
	conf *Config
	at   attachment
	host *netlink.Handle
	// tell says whether the agent is to know.
	tell  bool
	addrs []netip.Addr
}

// removalSteps are DEL. First nothing of the pod passes any more, then its rules
// may go. Its addresses are given back when nothing has them: another ADD may
// take them at once.
var removalSteps = []step[*removal]{
	{"link", (*removal).deleteLink},
	{"host", (*removal).forget},
	{"agent", (*removal).tellAgent},
	{"leases", (*removal).release},
}

func (r *removal) run(p Plugin, command string) error { return run(p, command, removalSteps, r) }

// Del is DEL: it removes what ADD has made, as far as it is there. It needs
// neither the pod's network namespace nor the agent, nor that ADD was ever
// called. Its errors have the CNI codes 6 and 7 (the configuration) or 999.
func (p Plugin) Del(args *skel.CmdArgs) error {
	conf, err := ReadConfig(args.StdinData)
	if err != nil {
		return err
	}
	r := &removal{conf: conf, at: attachment{args.ContainerID, args.IfName}, tell: true}
	if conf.Chained() {
		return r.tellAgent()
	}
	if r.host, err = openHost(); err != nil {
		return err
	}
	defer r.host.Close()
	return r.run(p, "del")
}

func (r *removal) deleteLink() error {
	return deleteLink(r.host, LinkName(r.at.containerID, r.at.ifName))
}

func (r *removal) forget() error {
	l, err := openLeases(r.conf)
	if err != nil {
		return err
	}
	r.addrs = l.of(r.at)
	// Under the lock: without its link the container is a lost one to others, who may
	// give its addresses away (endLost).
	return errors.Join(forget(r.host, r.conf.Bridge, r.addrs), l.close())
}

// tellAgent never fails.
func (r *removal) tellAgent() error {
	if !r.tell {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(delTimeout, r.conf.Timeout()))
	defer cancel()
	_ = handshake.Call(ctx, r.conf.Socket, handshake.Request{
		Op: handshake.OpDel, ContainerID: r.at.containerID, IfName: r.at.ifName,
	})
	return nil
}

func (r *removal) release() error {
	if len(r.addrs) == 0 {
		return nil
	}
	l, err := lockLeases(r.conf)
	if err != nil {
		return err
	}
	return errors.Join(l.release(r.at, r.addrs), l.close())
}
