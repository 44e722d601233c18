package kernel

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

var (
	seed     = flag.Int64("seed", 1, "seed of the first random history; the others follow")
	duration = flag.Duration("duration", 0, "go on with random histories for so long")
)

// shaky is connection tracking whose netlink fails now and then.
type shaky struct {
	*tracked
	r      *rand.Rand
	faults bool
	// busy: there are so many flows that addresses are looked for one by one.
	busy bool
	said []string
}

// receiver is where all its flows lead to.
var receiver = netip.MustParseAddr("10.0.0.1")

// TestRandomFlows has flows judged and ended, in random order, while flows come and go and
// netlink fails. What is said to be done must be, for each flow that there is; what of a mark
// is others' stays. Once nothing fails any more, all is done.
func TestRandomFlows(t *testing.T) {
	began := time.Now()
	for i := int64(0); i < 300 || time.Since(began) < *duration; i++ {
		if wrong := randomFlows(t, *seed+i); wrong != "" {
			t.Fatalf("seed %d: %s", *seed+i, wrong)
		}
	}
}

func randomFlows(t *testing.T, seed int64) (wrong string) {
	r := rand.New(rand.NewSource(seed))
	all := sources(12)
	k := &shaky{tracked: &tracked{marks: map[netip.Addr]uint32{}, masters: map[netip.Addr]netip.Addr{}}, r: r, faults: true, busy: r.Intn(2) == 0}
	// Some are the node's own, which may send what it likes.
	own := all[10:]
	for _, addr := range own {
		k.addrs = append(k.addrs, localRoute(t, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, 32, addr.AsSlice()...))
	}
	lines := func() judging {
		return judging{listing: lineTo(k.conntrack), marking: lineTo(k.conntrack), route: lineTo(k.routes), sockets: lineTo(k.diag)}
	}
	flows := &Flows{bit: 1 << 29, judging: lines(), judgingOf: lines(), deletions: lineTo(k.conntrack)}
	denied := map[netip.Addr]bool{}
	passes := func(hook nft.HookPoint, p policy.Packet) bool { return hook == nft.Output || !denied[p.Src] }
	some := func() (some []netip.Addr) {
		for range 1 + r.Intn(3) {
			some = append(some, all[r.Intn(len(all))])
		}
		if r.Intn(6) == 0 {
			some = append(some, receiver)
		}
		return some
	}
	for step := range 30 {
		if step == 29 {
			k.faults = false
		}
		for range r.Intn(4) {
			k.change(all, denied)
		}
		k.said = nil
		what, err := "", error(nil)
		// Which flows must be judged, by their sources: the receiver is an end of all.
		judged := func(netip.Addr) bool { return true }
		switch of := some(); {
		case step == 29 || r.Intn(3) == 0:
			what = "Revoke"
			_, _, err = flows.Revoke(passes)
		case r.Intn(2) == 0:
			what = fmt.Sprint("RevokeOf ", of)
			judged = func(src netip.Addr) bool { return slices.Contains(of, src) || slices.Contains(of, receiver) }
			_, _, err = flows.RevokeOf(of, passes)
		default:
			what = fmt.Sprint("Forget ", of)
			judged = func(netip.Addr) bool { return false }
			if err = flows.Forget(of); err == nil && slices.ContainsFunc(k.flows, func(src netip.Addr) bool { return slices.Contains(of, src) || slices.Contains(of, receiver) }) {
				return fmt.Sprintf("%s is done, with %v, but there are %v", what, k.said, k.flows)
			}
		}
		if err != nil && len(k.said) == 0 {
			return fmt.Sprintf("%s: %v, though nothing went wrong", what, err)
		}
		for _, src := range k.flows {
			deny := denied[k.root(src)] && !slices.Contains(own, k.root(src))
			if is := k.marks[src]&(1<<29) != 0; err == nil && judged(src) && is != deny {
				return fmt.Sprintf("%s is done, with %v, but the flow of %s (by %s) is marked: %t", what, k.said, src, k.root(src), is)
			}
			if k.marks[src]&^(1<<29) != others(src) {
				return fmt.Sprintf("%s, with %v, has left the mark %x of the flow of %s", what, k.said, k.marks[src], src)
			}
		}
	}
	return ""
}

// others are the bits of a flow's mark that are not podfence's.
func others(src netip.Addr) uint32 { return uint32(src.As4()[3]) + 1 }

// change has a flow begin or end, or the policies let another source pass.
func (k *shaky) change(all []netip.Addr, denied map[netip.Addr]bool) {
	src := all[k.r.Intn(len(all))]
	at := slices.Index(k.flows, src)
	switch {
	case k.r.Intn(3) == 0:
		denied[src] = !denied[src]
	case at >= 0:
		k.flows = slices.Delete(k.flows, at, at+1)
	default:
		k.flows = append(k.flows, src)
		k.marks[src] = others(src)
		delete(k.masters, src)
		if k.r.Intn(3) == 0 {
			k.masters[src] = all[k.r.Intn(len(all))]
		}
	}
}

// root is the flow that has announced one, or announced that, and so on, of those there are.
func (k *shaky) root(src netip.Addr) netip.Addr {
	for range maxMasters {
		master, is := k.masters[src]
		if !is || !slices.Contains(k.flows, master) {
			break
		}
		src = master
	}
	return src
}

func (k *shaky) routes(sent []netlink.Message) ([]datagram, error) { return k.fail(sent, k.route) }

func (k *shaky) conntrack(sent []netlink.Message) ([]datagram, error) { return k.fail(sent, k.answer) }

// answer is what a kernel without faults says.
func (k *shaky) answer(sent []netlink.Message) ([]datagram, error) {
	request := sent[0]
	attributes := request.Data[nfgenmsgLength:]
	named := func() netip.Addr {
		f, _ := parseFlow(unix.AF_INET, slices.Concat(attributes, tupleBytes(ctaTupleReply, receiver)))
		return f.packet.Src
	}
	switch {
	case request.Header.Type == ctMessageGetCounts && k.busy:
		ae := netlink.NewAttributeEncoder()
		ae.ByteOrder = binary.BigEndian
		ae.Uint32(ctaCountsEntries, 1_000_000)
		count, _ := ae.Encode()
		found := netlink.Message{Header: request.Header, Data: append(nfgenmsg(unix.AF_UNSPEC), count...)}
		return []datagram{{messages: []netlink.Message{found}}, says(request, 0)}, nil
	case request.Header.Type == ctMessageDelete, request.Header.Type == ctMessageNew:
		at := slices.Index(k.flows, named())
		if at < 0 {
			return []datagram{says(request, unix.ENOENT)}, nil
		}
		if src := k.flows[at]; request.Header.Type == ctMessageNew {
			mark, mask := uint32(0), ^uint32(0) // as ctnetlink_change_mark has it
			_ = eachAttribute(request, func(ad *netlink.AttributeDecoder) {
				switch ad.Type() {
				case ctaMark:
					mark = ad.Uint32()
				case ctaMarkMask:
					mask = ad.Uint32()
				}
			})
			k.marks[src] = k.marks[src]&^mask ^ mark
		} else {
			k.flows = slices.Delete(k.flows, at, at+1)
		}
		return []datagram{says(request, 0)}, nil
	case request.Header.Type == ctMessageGet && request.Header.Flags&netlink.Dump != 0:
		var entries [][]byte
		for _, src := range k.flows {
			if k.asked(request, src) {
				entries = append(entries, k.entry(src))
			}
		}
		return multipart(request, entries), nil
	}
	return k.tracked.conntrack(sent)
}

// asked reports whether a list's filter lets the flow of a source pass.
func (k *shaky) asked(request netlink.Message, src netip.Addr) bool {
	if request.Data[0] == unix.AF_INET6 {
		return false
	}
	passes := true
	_ = eachAttribute(request, func(ad *netlink.AttributeDecoder) {
		end := src
		switch ad.Type() {
		case ctaTupleReply:
			end = receiver
		case ctaTupleOrig:
		default:
			return
		}
		passes = passes && strings.Contains(string(ad.Bytes()), string(end.AsSlice()))
	})
	return passes
}

// fail hands a request to the kernel, or has it or its answer go wrong.
func (k *shaky) fail(sent []netlink.Message, kernel func([]netlink.Message) ([]datagram, error)) ([]datagram, error) {
	if !k.faults || k.r.Intn(12) > 0 {
		return kernel(sent)
	}
	transient := []unix.Errno{unix.ENOBUFS, unix.EINTR, unix.EBUSY, unix.ENOMEM, unix.EAGAIN}
	errno := transient[k.r.Intn(len(transient))]
	kind := k.r.Intn(7)
	k.said = append(k.said, fmt.Sprintf("fault %d (%v) of message %d", kind, errno, sent[0].Header.Type&0xff))
	if kind == 0 {
		return nil, callFails("sendmsg", errno)
	}
	if kind == 1 {
		return []datagram{says(sent[0], errno)}, nil
	}
	answers, err := kernel(sent)
	switch kind {
	case 2: // it is lost, or its end is
		return answers[:len(answers)-1], err
	case 3:
		return append([]datagram{{err: callFails("recvmsg", errno)}}, answers...), err
	case 4: // something that is left from before comes first
		stale := says(sent[0], 0)
		stale.messages[0].Header.Sequence--
		return append([]datagram{stale}, answers...), err
	case 5: // a list has changed meanwhile, and lacks what has moved
		if sent[0].Header.Flags&netlink.Dump == netlink.Dump {
			for i := range answers {
				for j := range answers[i].messages {
					answers[i].messages[j].Header.Flags |= netlink.DumpInterrupted
				}
			}
			return answers[min(1, len(answers)-1):], err
		}
		return answers, err
	default: // nobody can read the first
		first := answers[0].messages
		if len(first[0].Data) > 2 {
			first[0].Data = first[0].Data[:2]
		}
		return answers, err
	}
}
