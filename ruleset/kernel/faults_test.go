package kernel

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// errnos are what netlink may say, and whether it is the plan that is at fault.
var errnos = map[unix.Errno]bool{
	unix.ENOBUFS: false, unix.EINTR: false, unix.EBUSY: false, unix.ENOMEM: false,
	unix.ERESTART: false, unix.EPERM: false, unix.EAGAIN: false,
	unix.ENOENT: true, unix.EEXIST: true, unix.EOPNOTSUPP: true, unix.EINVAL: true, unix.EMLINK: true,
}

// relayed is a Conn whose requests come to a function, but for those by which a
// replacement learns that there is no table.
func relayed(kernel func([]netlink.Message) ([]datagram, error)) *Conn {
	told := false
	return &Conn{name: "podfence", socket: netlink.NewConn(&relay{kernel: func(sent []netlink.Message) ([]datagram, error) {
		switch kind := sent[0].Header.Type; {
		case kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE:
			told = true
			return []datagram{says(sent[0], unix.ENOENT)}, nil
		case kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN && !told:
			return saysGeneration(sent[0], 1)
		}
		return kernel(sent)
	}}, 7)}
}

func somePlan() nft.Plan {
	return nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddSet{Name: "s", Type: nft.Of(nft.IPv4Addr)}, nft.AddChain{Name: "c"},
		nft.SetRules{Chain: "c", Rules: []nft.Rule{{}, {Counter: true}}},
	}}
}

// TestFaults has each step of a transaction go wrong in each way.
func TestFaults(t *testing.T) {
	messages, err := (&Conn{name: "podfence"}).encode((&Conn{name: "podfence"}).table(nft.Inet), somePlan())
	if err != nil {
		t.Fatal(err)
	}
	for errno, atFault := range errnos {
		expect := func(t *testing.T, kernel func([]netlink.Message) ([]datagram, error), what string, op int) {
			t.Helper()
			g := NewWithT(t)
			for name, do := range map[string]func(*Conn, nft.Plan) error{"apply": (*Conn).Apply, "check": (*Conn).Check} {
				err := do(relayed(kernel), somePlan())
				g.Expect(err).To(MatchError(errno), name)
				g.Expect(errors.Is(err, ErrUnknown)).To(BeFalse(), "%s: nothing was done", name)
				g.Expect(errors.Is(err, ErrPermission)).To(Equal(errno == unix.EPERM))
				var failed *OpError
				g.Expect(errors.As(err, &failed)).To(BeTrue())
				if errno == unix.EPERM {
					what = "apply "
				}
				g.Expect(failed.Op).To(HavePrefix(what))
				var refusal *nft.Refusal
				g.Expect(errors.As(err, &refusal)).To(Equal(atFault), name)
				if atFault {
					g.Expect(refusal.Op).To(Equal(op))
				}
			}
		}
		t.Run(fmt.Sprint("send ", errno), func(t *testing.T) {
			g := NewWithT(t)
			c := relayed(func([]netlink.Message) ([]datagram, error) { return nil, callFails("sendmsg", errno) })
			err := c.Apply(somePlan())
			g.Expect(err).To(MatchError(errno))
			g.Expect(errors.Is(err, ErrUnknown)).To(BeFalse())
		})
		t.Run(fmt.Sprint("commit ", errno), func(t *testing.T) {
			expect(t, func(sent []netlink.Message) ([]datagram, error) {
				return []datagram{says(sent[0], errno), says(sent[len(messages)], 0)}, nil
			}, "apply ", -1)
		})
		t.Run(fmt.Sprint("receive ", errno), func(t *testing.T) {
			g := NewWithT(t)
			c := relayed(func(sent []netlink.Message) ([]datagram, error) {
				return []datagram{{err: callFails("recvmsg", errno)}, says(sent[len(messages)], 0)}, nil
			})
			g.Expect(c.Apply(somePlan())).To(And(MatchError(ErrUnknown), MatchError(errno)))
		})
		for i, m := range messages {
			t.Run(fmt.Sprint("message ", i, " ", errno), func(t *testing.T) {
				expect(t, func(sent []netlink.Message) (answers []datagram, err error) {
					// What an earlier batch has left comes first, other refusals after.
					stale := sent[0]
					stale.Header.Sequence -= 100
					answers = []datagram{says(stale, unix.E2BIG), says(sent[1+i], errno)}
					for _, later := range sent[i+2 : 1+len(messages)] {
						answers = append(answers, says(later, unix.E2BIG))
					}
					return answers, nil
				}, m.what(), m.op)
			})
		}
	}
}

// acknowledged is the message that is answered in any case.
func acknowledged(sent []netlink.Message) int {
	return slices.IndexFunc(sent, func(m netlink.Message) bool { return m.Header.Flags&netlink.Acknowledge != 0 })
}

// TestUnclear has answers that tell nothing: whether the transaction was carried
// out is not known then, whatever it was. The next one must not be taken in by what
// they leave.
func TestUnclear(t *testing.T) {
	for name, answer := range map[string]func(last netlink.Message) []datagram{
		"none":  func(netlink.Message) []datagram { return nil },
		"empty": func(netlink.Message) []datagram { return []datagram{{}} },
		"truncated": func(last netlink.Message) []datagram {
			m := says(last, 0)
			m.messages[0].Data = []byte{0}
			return []datagram{m}
		},
		"garbage":           func(netlink.Message) []datagram { return []datagram{{err: unix.EINVAL}} },
		"of another number": func(last netlink.Message) []datagram { last.Header.Sequence += 77; return []datagram{says(last, 0)} },
		"of another kind":   func(last netlink.Message) []datagram { return []datagram{{messages: []netlink.Message{last}}} },
		"refusal of another": func(last netlink.Message) []datagram {
			last.Header.Sequence -= 77
			return []datagram{says(last, unix.ENOENT)}
		},
		"to the first only": func(last netlink.Message) []datagram { last.Header.Sequence--; return []datagram{says(last, 0)} },
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			unclear := true
			c := relayed(func(sent []netlink.Message) ([]datagram, error) {
				if acknowledged(sent) < 0 {
					return saysGeneration(sent[0], 1)
				}
				last := sent[acknowledged(sent)]
				if unclear {
					return answer(last), nil
				}
				return []datagram{says(last, 0)}, nil
			})
			err := c.Apply(somePlan())
			g.Expect(err).To(MatchError(ErrUnknown))
			var refusal *nft.Refusal
			g.Expect(errors.As(err, &refusal)).To(BeFalse())
			unclear = false
			g.Expect(c.Apply(somePlan())).To(Succeed())
		})
	}
}

// kept is a table that is kept equal to a description, as the enforcer does it.
type kept struct {
	family nft.Family
	table  *ruleset.Table // of family inet
	guard  *ruleset.Guard // of family bridge
	known  bool
	// holds is what the kernel lists.
	holds string
}

// TestRandomFaults carries random histories out on a kernel with random faults in
// between. An error must say truly what the kernel holds: what it held, or, if it is
// unclear, that or the new table, whole. A success means the new table. Once the
// faults stop, the first transaction heals all.
func TestRandomFaults(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of the test's own needs root: skipped")
	}
	// Never unlocked: the thread, and with it the namespace, ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	reference, err := Open(Options{Table: "reference"})
	if err != nil {
		t.Fatal(err)
	}
	defer reference.Close()
	counts := map[string]int{}
	began := time.Now()
	for i := int64(0); i < 8 || time.Since(began) < *duration; i++ {
		if randomFaults(t, *seed+i, reference, counts); t.Failed() {
			return
		}
	}
	t.Logf("%v", counts)
	for _, what := range []string{"success", "failure", "unclear, not done", "unclear, done", "refused check"} {
		if counts[what] == 0 {
			t.Errorf("no %s in %v: this shows less than it should", what, counts)
		}
	}
}

func randomFaults(t *testing.T, seed int64, reference *Conn, counts map[string]int) {
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	r := rand.New(rand.NewSource(seed))
	socket, pid, err := openReal()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket.fd)
	faults := true
	c := &Conn{name: "podfence"}
	c.socket = netlink.NewConn(&relay{kernel: func(sent []netlink.Message) ([]datagram, error) {
		// A replacement asks several questions before its transaction.
		if question := acknowledged(sent) < 0; !faults || r.Intn(2) == 0 || question && r.Intn(4) > 0 {
			return socket.send(sent)
		}
		return fault(r, socket, sent)
	}}, pid)
	m := policy.NewModel(random.Node)
	history := random.History(r, 60)
	kepts := []*kept{{family: nft.Inet}, {family: nft.Bridge}}
	for _, k := range kepts {
		k.holds = listed(t, k.family, "podfence")
	}
	for len(history) > 0 {
		n := min(len(history), 1+r.Intn(6))
		for _, event := range history[:n] {
			m.Apply(event.Change())
		}
		history = history[n:]
		faults = len(history) > 0
		for _, k := range kepts {
			k.step(t, r, c, reference, m, counts)
			if t.Failed() {
				return
			}
			if !faults && !k.known {
				t.Errorf("the faults have stopped, and table %s is not as it should be", k.family)
			}
		}
	}
}

// step brings the table up to date, or tries to.
func (k *kept) step(t *testing.T, r *rand.Rand, c, reference *Conn, m *policy.Model, counts map[string]int) {
	t.Helper()
	plan := k.plan(m)
	if plan.Empty() {
		return
	}
	whole := k.whole()
	if err := reference.Apply(whole); err != nil {
		t.Fatalf("the reference: %v", err)
	}
	want := listed(t, k.family, "reference")
	if r.Intn(3) == 0 {
		if c.Check(plan) != nil {
			counts["refused check"]++
		}
		if have := listed(t, k.family, "podfence"); have != k.holds {
			t.Fatalf("a check has changed the table (-before +after):\n%s", cmp.Diff(k.holds, have))
		}
	}
	err := c.Apply(plan)
	have := listed(t, k.family, "podfence")
	k.known = err == nil
	switch {
	case err == nil && have != want:
		t.Fatalf("carried out, but the table is not as it should be (-want +have):\n%s", cmp.Diff(want, have))
	case err == nil:
		counts["success"]++
	case !errors.Is(err, ErrUnknown) && have != k.holds:
		t.Fatalf("%v: the table has changed (-before +after):\n%s", err, cmp.Diff(k.holds, have))
	case !errors.Is(err, ErrUnknown):
		counts["failure"]++
	case have == k.holds:
		counts["unclear, not done"]++
	case have == want:
		counts["unclear, done"]++
	case withoutUnused(have) == withoutUnused(k.holds): // sets of ranges come first, and no rule looks them up yet
		counts["unclear, sets only"]++
	case listed(t, k.family, "podfence"+standbySuffix) == want: // which is in force until the next replacement has done its work
		counts["unclear, on standby"]++
	default:
		t.Fatalf("%v: the table is neither as before nor as it should be (-want +have):\n%s", err, cmp.Diff(want, have))
	}
	k.holds = have
}

// withoutUnused is a listing without the sets that no rule looks up.
func withoutUnused(listing string) string {
	return setBlock.ReplaceAllStringFunc(listing, func(block string) string {
		if name := setBlock.FindStringSubmatch(block)[1]; strings.Contains(listing, "@"+name) {
			return block
		}
		return ""
	})
}

var setBlock = regexp.MustCompile(`(?ms)^\tset (\S+) \{\n.*?^\t\}\n+`)

// whole is the plan that puts the whole table in place of what the kernel has.
func (k *kept) whole() nft.Plan {
	if k.family == nft.Bridge {
		return k.guard.Replacement()
	}
	return k.table.Replacement()
}

// plan is what the kernel needs to be told.
func (k *kept) plan(m *policy.Model) nft.Plan {
	if k.family == nft.Bridge {
		gateway := ruleset.Gateway{MAC: [6]byte{2, 1}}
		if !k.known {
			k.guard = ruleset.BuildGuard(m.Attachments(), gateway, ruleset.FragmentMemory{})
			return k.whole()
		}
		return k.guard.UpdateGuard(m.Attachments(), gateway)
	}
	if !k.known {
		k.table = ruleset.Build(m.Intent(), ruleset.Options{})
		return k.whole()
	}
	return k.table.Update(m.Take())
}

// fault is one of the ways for a batch to go wrong.
func fault(r *rand.Rand, socket real, sent []netlink.Message) ([]datagram, error) {
	var all []unix.Errno
	for errno := range errnos {
		all = append(all, errno)
	}
	slices.Sort(all)
	errno := all[r.Intn(len(all))]
	last := acknowledged(sent)
	if last < 0 {
		return questionFault(r, socket, sent, errno)
	}
	switch r.Intn(8) {
	case 0: // it never gets there
		return nil, callFails("sendmsg", errno)
	case 1: // a message is refused
		return []datagram{says(sent[r.Intn(last+1)], errno), says(sent[last], unix.E2BIG)}, nil
	case 2: // one is refused by the kernel itself, which says which
		bad := sent[last]
		bad.Header.Type, bad.Header.Flags = unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELCHAIN, netlink.Request
		worse := slices.Clone(sent)
		worse[1+r.Intn(last)] = bad
		return socket.send(worse)
	case 3: // the kernel never sees it, and nobody says anything
		return nil, nil
	case 4: // the kernel carries it out, and nobody says anything
		_, err := socket.send(sent)
		return nil, err
	case 5: // or something else comes
		_, err := socket.send(sent)
		return []datagram{{err: callFails("recvmsg", errno)}}, err
	case 6: // or something nobody understands
		_, err := socket.send(sent)
		m := says(sent[last], 0)
		m.messages[0].Data = m.messages[0].Data[:r.Intn(4)]
		return []datagram{m}, err
	default: // or something that is left from before comes first
		stale := sent[0]
		stale.Header.Sequence -= uint32(1 + r.Intn(1000))
		answers, err := socket.send(sent)
		return append([]datagram{says(stale, errno)}, answers...), err
	}
}

// questionFault is one of the ways for a question, or a listing, to go wrong.
func questionFault(r *rand.Rand, socket real, sent []netlink.Message, errno unix.Errno) ([]datagram, error) {
	answers, err := socket.send(sent)
	switch r.Intn(6) {
	case 0:
		return nil, callFails("sendmsg", errno)
	case 1:
		return []datagram{says(sent[0], errno)}, nil
	case 2:
		return nil, nil
	case 3: // some of it is missing
		return answers[:len(answers)-1], err
	case 4: // it has changed meanwhile, and what has moved is missing
		if first := answers[0].messages; len(first) > 1 {
			answers[0].messages = first[1:]
		}
		for _, answer := range answers {
			for i := range answer.messages {
				answer.messages[i].Header.Flags |= netlink.DumpInterrupted
			}
		}
		return answers, err
	default: // nobody understands it
		first := answers[0].messages
		if len(first) > 0 && len(first[0].Data) > nfgenmsgLength+2 {
			first[0].Data = first[0].Data[:nfgenmsgLength+2]
		}
		return answers, err
	}
}

// listed is a table of the thread's namespace, but for its name and for the order of
// its objects and of their elements.
func listed(t *testing.T, family nft.Family, name string) string {
	t.Helper()
	out, err := exec.Command("nft", "-s", "list", "table", family.String(), name).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "No such file or directory") {
			return ""
		}
		t.Fatalf("nft: %v: %s", err, out)
	}
	return lab.SortListing(string(out))
}
