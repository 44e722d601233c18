package truth

import (
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/random"
)

// paper is the agent without a kernel, a socket and a folder: what decides in it, called
// as controllers/attachments and controllers/enforcer call it.
type paper struct {
	options ruleset.Options
	model   *policy.Model
	held    *ruleset.Table // by the kernel
	kept    map[handshake.Attachment]policy.Attachment
}

func newPaper(o ruleset.Options) *paper {
	return &paper{options: o, kept: map[handshake.Attachment]policy.Attachment{}}
}

func (a *paper) start(listed []random.Event) error {
	a.model = policy.NewModel(random.Node)
	a.model.RememberPodCIDRs(rangesOf(a.held))
	for _, attachment := range a.kept {
		a.model.Apply(policy.SetAttachment(attachment))
	}
	a.model.Apply(random.Changes(listed)...)
	a.held = ruleset.Build(a.model.Intent(), a.options)
	return nil
}

// rangesOf are the node's ranges as a table has them.
func rangesOf(t *ruleset.Table) (ranges []netip.Prefix) {
	if t == nil {
		return nil
	}
	for i, name := range ruleset.PodRangeSets {
		addr := func(octets [16]byte) netip.Addr {
			if i == 0 {
				return netip.AddrFrom4([4]byte(octets[:4]))
			}
			return netip.AddrFrom16(octets)
		}
		for e := range t.Sets[name].Elements {
			ranges = append(ranges, netipx.IPRangeFrom(addr(e.Addr), addr(e.LastAddr)).Prefixes()...)
		}
	}
	return ranges
}

func (a *paper) stop() error { a.model = nil; return nil }

func (a *paper) wipe() error {
	a.held = nil
	clear(a.kept)
	return nil
}

// feed changes the model, and commits.
func (a *paper) feed(change policy.Change) error {
	a.model.Apply(change)
	for first := true; first || a.model.Pending(); first = false {
		a.held.Update(a.model.Take())
	}
	return nil
}

func (a *paper) tell(e random.Event) error { return a.feed(e.Change()) }

func (a *paper) add(x *iface) error { return a.keep(x.attachment()) }

// keep forgets who had one of the addresses before.
func (a *paper) keep(attachment policy.Attachment) error {
	at := handshake.Attachment{ContainerID: attachment.ContainerID, IfName: attachment.IfName}
	for other, kept := range maps.Clone(a.kept) {
		if other != at && slices.ContainsFunc(kept.IPs, func(ip netip.Addr) bool { return slices.Contains(attachment.IPs, ip) }) {
			if err := a.forget(other); err != nil {
				return err
			}
		}
	}
	a.kept[at] = attachment
	return a.feed(policy.SetAttachment(attachment))
}

func (a *paper) forget(at handshake.Attachment) error {
	delete(a.kept, at)
	return a.feed(policy.DeleteAttachment(at.ContainerID, at.IfName))
}

func (a *paper) answered(x *iface, _ bool) (bool, error) {
	if a.model == nil {
		return false, nil
	}
	attachment := x.attachment()
	uid, known := a.model.Attached(attachment)
	if !known || attachment.UID != "" {
		return known, nil
	}
	attachment.UID = uid
	return true, a.keep(attachment)
}

func (a *paper) giveUp(x *iface) error { return a.forget(x.at()) }

func (a *paper) del(x *iface) error { return a.forget(x.at()) }

func (a *paper) gc(valid []*iface) error {
	is := map[handshake.Attachment]bool{}
	for _, x := range valid {
		is[x.at()] = true
	}
	for at := range maps.Clone(a.kept) {
		if !is[at] {
			if err := a.forget(at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *paper) lose(x *iface) error { delete(a.kept, x.at()); return nil }

func (a *paper) ended(*iface) error { return nil }

func (a *paper) check(w *world) error { return w.check(a.held) }

func (a *paper) close() error { return nil }

// at names the interface, as CNI does.
func (x *iface) at() handshake.Attachment {
	return handshake.Attachment{ContainerID: x.container, IfName: x.name}
}

// attachment is what the runtime has told of the interface.
func (x *iface) attachment() policy.Attachment {
	return policy.Attachment{ContainerID: x.container, IfName: x.name, Pod: x.key, UID: x.said, IPs: x.ips}
}
