package kernel

import (
	"errors"
	"slices"

	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// judgement says by what flows are judged, while a list of them is gone through.
type judgement struct {
	*judging
	// local are the namespace's own addresses.
	local *netipx.IPSet
}

// hookOf is where the first packet of a flow was judged.
func (j *judgement) hookOf(p packet.Packet) nft.HookPoint {
	switch {
	case j.local.Contains(p.Src):
		return nft.Output
	case j.local.Contains(p.Dst):
		return nft.Input
	}
	return nft.Forward
}

// passesByProxy reports whether a flow passes although it would not be forwarded. A transparent proxy sends and
// receives under addresses that are not the node's. Only its socket tells that, and few flows are denied,
// so that the kernel has to be asked seldom.
func (j *judgement) passesByProxy(entry flow, hook nft.HookPoint, judge func(nft.HookPoint, packet.Packet) bool) bool {
	if hook != nft.Forward {
		return false
	}
	proxied := j.proxied(entry)
	return proxied != hook && judge(proxied, entry.packet)
}

// judgedBy is the packet that a flow is judged by. If another flow has announced the flow, or has
// announced the one that did, that is the other flow's packet: announced flows pass as related,
// whatever the rules say of their own ports. A flow whose master has ended is judged by itself.
// What the kernel tells is not of a single moment, so two flows may each seem to be the other's
// master.
func (j *judgement) judgedBy(entry flow) (packet.Packet, error) {
	for range maxMasters {
		if entry.master == nil {
			break
		}
		master, found, err := j.lookUp(entry)
		if err != nil {
			return packet.Packet{}, err
		}
		if !found {
			break
		}
		entry = master
	}
	return entry.packet, nil
}

// maxMasters is how many masters in a row are followed, each of which has announced the one before.
const maxMasters = 8

// lookUp asks for the flow that has announced a flow. It is not found if it has ended.
func (j *judging) lookUp(entry flow) (master flow, found bool, err error) {
	tuple, err := entry.name(entry.master)
	if err != nil {
		return flow{}, false, err
	}
	err = j.marking.ask(netlink.Message{
		Header: netlink.Header{Type: ctMessageGet, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(nfgenmsg(entry.family), tuple...),
	}, func(m netlink.Message) error {
		if len(m.Data) >= nfgenmsgLength {
			master, found = parseFlow(m.Data[0], slices.Clone(m.Data[nfgenmsgLength:]))
		}
		if !found {
			return errors.New("it cannot be read")
		}
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		return flow{}, false, nil
	}
	return master, found, err
}
