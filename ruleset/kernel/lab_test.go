package kernel_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/kernel"
)

// namespace is a network namespace of a test's own, with a thread in it.
type namespace struct {
	t    testing.TB
	fd   int
	work chan func()
}

// newNamespace makes an empty network namespace for the test. It skips the test
// if it is not run by root.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of the test's own needs root: skipped")
	}
	n := &namespace{t: t, work: make(chan func())}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nobody else
		// ever runs in the namespace.
		runtime.LockOSThread()
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { close(n.work) })
	var err error
	n.run(func() { n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		t.Fatalf("open the network namespace: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(n.fd) })
	return n
}

// run runs f on the namespace's thread.
func (n *namespace) run(f func()) {
	done := make(chan struct{})
	n.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// open connects to the namespace, until the test ends.
func (n *namespace) open() *kernel.Conn {
	n.t.Helper()
	c, err := kernel.Open(kernel.Options{NetNS: n.fd})
	if err != nil {
		n.t.Fatalf("open: %v", err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

// try runs nft in the namespace.
func (n *namespace) try(stdin string, args ...string) (string, error) {
	n.t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		n.t.Fatalf("these tests need nft, of the Debian package nftables: %v", err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	// A child is in the namespace of the thread that starts it.
	n.run(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("nft %v: %w: %s", args, err, errs.String())
	}
	return out.String(), err
}

func (n *namespace) nft(stdin string, args ...string) string {
	n.t.Helper()
	out, err := n.try(stdin, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// load has nft carry a text out. It skips the test if no text with ports could be,
// by this nft on this kernel: see uselessByteorder.
func (n *namespace) load(text string) {
	n.t.Helper()
	_, err := n.try(text, "-f", "-")
	if err == nil {
		return
	}
	const least = `table inet least {
		set s { type inet_proto . inet_service; flags interval; }
		chain c { meta l4proto . th dport @s; }
	}
	`
	_, refused := newNamespace(n.t).try(least, "-f", "-")
	// Nothing else that may be wrong, such as nft missing, is a reason to skip.
	if refused != nil && strings.Contains(refused.Error(), "Operation not supported") && strings.Contains(text, "meta l4proto . th dport @") {
		n.t.Skipf("skipped: there is no comparing with nft, which writes for ports what this kernel refuses: %v", refused)
	}
	n.t.Fatal(err)
}

// uselessByteorder is what nft 1.0.6 writes, before it looks up a protocol in
// ranges, to turn the order of one byte round. podfence does not: it does nothing,
// and newer kernels refuse it.
const uselessByteorder = "  [ byteorder reg 1 = hton(reg 1, 2, 1) ]\n"

// list is the ruleset of the namespace, without counts.
func (n *namespace) list() string {
	n.t.Helper()
	return n.nft("", "-s", "list", "ruleset")
}

var (
	handles = regexp.MustCompile(`(?m)^((?:inet|bridge) \S+ [^\n@]*?)( \d+)+ *$`)
	// The element with which nft starts a new interval set: an end at 0.
	nullElement = regexp.MustCompile(`^\telement (00000000 )+ : 1 \[end\]$`)
)

// bytecode is the ruleset as the kernel has it: elements, expressions, user
// data; in order, without handles.
func (n *namespace) bytecode() []string {
	n.t.Helper()
	out := n.nft("", "-s", "--debug=netlink", "list", "ruleset")
	out, _, _ = strings.Cut(out, "\ntable ")
	out = strings.ReplaceAll(out, uselessByteorder, "")
	out = handles.ReplaceAllString(out, "$1")
	var sections []string
	for _, line := range strings.Split(out, "\n") {
		switch {
		case nullElement.MatchString(line):
		case strings.HasPrefix(line, "inet "), strings.HasPrefix(line, "bridge "):
			sections = append(sections, line)
		case len(sections) > 0:
			sections[len(sections)-1] += "\n" + strings.TrimRight(line, " ")
		}
	}
	for i, section := range sections {
		if name, rest, ok := strings.Cut(section, "\n"); ok && strings.Contains(name, "@") {
			lines := strings.Split(strings.TrimRight(rest, "\n"), "\n")
			slices.Sort(lines)
			sections[i] = name + "\n" + strings.Join(lines, "\n")
		}
	}
	return sections
}
