package kernel

import (
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// TestInterruptedLists: a list that changed while the kernel wrote it down is asked for
// again, as something may be missing from it; nothing is judged by it.
func TestInterruptedLists(t *testing.T) {
	var asked int
	whole := dumpTries // the first list that is not interrupted
	list := func(requests []netlink.Message) ([]netlink.Message, error) {
		asked++
		header := requests[0].Header
		header.Flags = netlink.Multi
		if asked < whole {
			header.Flags |= netlink.DumpInterrupted
		}
		header.Length = 16 + ifaddrmsgLength
		done := header
		done.Flags = netlink.Multi
		return nltest.Multipart([]netlink.Message{{Header: header, Data: make([]byte, ifaddrmsgLength)}, {Header: done}})
	}
	for name, x := range map[string]struct{ addresses, flows nltest.Func }{
		"of addresses": {addresses: list, flows: none},
		"of flows":     {addresses: none, flows: list},
	} {
		f := &Flows{route: nltest.Dial(x.addresses), conntrack: nltest.Dial(x.flows), bit: 1}
		allow := func(ruleset.HookPoint, policy.Packet) bool { return true }
		asked, whole = 0, dumpTries
		if _, _, err := f.Revoke(allow); err != nil || asked < dumpTries {
			t.Errorf("the list %s was asked for %d times: %v", name, asked, err)
		}
		asked, whole = 0, 1000
		if _, _, err := f.Revoke(allow); !errors.Is(err, unix.EINTR) || asked != dumpTries {
			t.Errorf("the list %s was asked for %d times: %v", name, asked, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// none answers with an empty list.
func none(requests []netlink.Message) ([]netlink.Message, error) {
	header := requests[0].Header
	header.Flags, header.Type = netlink.Multi, netlink.Done
	return []netlink.Message{{Header: header}}, nil
}
