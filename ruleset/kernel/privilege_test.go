package kernel_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestOwned has the table belong to another socket.
func TestOwned(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	owner, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(n.fd))
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = owner.CloseLasting() })
	owner.AddTable(&nftables.Table{Name: "podfence", Family: nftables.TableFamilyINet, Flags: nftables.TableFlagOwner})
	g.Expect(owner.Flush()).To(Succeed())
	g.Expect(c.Apply(small())).To(MatchError(kernel.ErrPermission))
	g.Expect(c.Uninstall()).To(MatchError(kernel.ErrPermission))
	g.Expect(owner.CloseLasting()).To(Succeed())
	// The kernel removes the table some time after the socket is closed.
	g.Eventually(func() error { return c.Apply(small()) }, "5s").Should(Succeed())
}

// withCapabilities runs f in the namespace on a thread that has these alone.
func (n *namespace) withCapabilities(f func(), capabilities ...int) {
	n.t.Helper()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		for _, c := range capabilities {
			data[c/32].Effective |= 1 << (c % 32)
			data[c/32].Permitted |= 1 << (c % 32)
		}
		if err = unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return
		}
		if err = unix.Capset(&header, &data[0]); err != nil {
			return
		}
		f()
	}()
	<-done
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestUnprivileged(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	var open, applied error
	n.withCapabilities(func() {
		_, open = kernel.Open(kernel.Options{})
		applied = c.Apply(apply(nft.DeleteSet{Name: "peers"}))
	})
	g.Expect(open).To(MatchError(kernel.ErrPermission))
	g.Expect(open).To(MatchError(unix.EPERM))
	g.Expect(open).To(MatchError(ContainSubstring("CAP_NET_ADMIN")))
	g.Expect(applied).To(MatchError(kernel.ErrPermission))
	g.Expect(n.list()).To(Equal(before))
	g.Expect(c.Apply(small())).To(Succeed())
}

// TestOnlyNetAdmin loads much with CAP_NET_ADMIN and nothing else, above all
// without CAP_SYS_RESOURCE.
func TestOnlyNetAdmin(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	var err error
	n.withCapabilities(func() {
		var c *kernel.Conn
		if c, err = kernel.Open(kernel.Options{}); err != nil {
			return
		}
		err = errors.Join(c.Apply(nft.Plan{Replace: true, Ops: []nft.Op{
			nft.AddSet{Name: "peers", Type: nft.Of(nft.IPv4Addr)},
			nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(0, 150_000)},
		}}), c.Close())
	}, unix.CAP_NET_ADMIN)
	g.Expect(err).NotTo(HaveOccurred())
	n.addrsOf(g, "set peers", 150_000)
}

// TestUserNamespace is in a user namespace of its own, where the send buffer
// can't be enlarged: a table that exceeds it is loaded all the same, and replaced; what
// cannot go in slices is refused, and says why.
func TestUserNamespace(t *testing.T) {
	const inside = "PODFENCE_TEST_USER_NAMESPACE"
	if os.Getenv(inside) == "" {
		if os.Geteuid() != 0 {
			t.Skip("a network namespace of the test's own needs root: skipped")
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespace$", "-test.v")
		limit, err := os.ReadFile("/proc/sys/net/core/wmem_max")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), inside+"="+strings.TrimSpace(string(limit)))
		mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UidMappings: mapping, GidMappings: mapping,
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		if bytes.Contains(out, []byte("--- SKIP")) {
			t.Skipf("skipped: in the user namespace: %s", bytes.ReplaceAll(out, []byte("\n"), []byte(" ")))
		}
		return
	}
	g := NewWithT(t)
	limit, err := strconv.Atoi(os.Getenv(inside))
	g.Expect(err).NotTo(HaveOccurred())
	// The kernel doubles the limit; an address takes 16 bytes or more.
	tooMany := limit * 2 / 16
	if tooMany > 5_000_000 {
		t.Skipf("net.core.wmem_max is %d: what exceeds that would take too long", limit)
	}
	c, err := kernel.Open(kernel.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.Apply(small())).To(Succeed())
	large := small()
	large.Ops = append(large.Ops, nft.AddSet{Name: "many", Type: nft.Of(nft.IPv4Addr)},
		nft.AddElements{Set: "many", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(10, tooMany)})
	g.Expect(c.Apply(large)).To(Succeed())
	err = c.Apply(apply(nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(10, tooMany)}))
	g.Expect(err).To(MatchError(unix.EMSGSIZE))
	g.Expect(err).To(MatchError(ContainSubstring("send buffer")))
	g.Expect(c.Apply(apply(nft.DeleteElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(10, 1)}))).
		To(MatchError(unix.ENOENT))
	g.Expect(c.Apply(small())).To(Succeed())
	g.Expect(c.Close()).To(Succeed())
}
