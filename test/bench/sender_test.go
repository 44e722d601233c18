package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/test/lab"
)

// senderVariable, in the environment of this test's binary, has it send instead of test: to
// the address that is its value.
const senderVariable = "PODFENCE_BENCH_SEND_TO"

// now is the time by the clock that all processes share (CLOCK_MONOTONIC).
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(t.Nano())
}

// startSender has a host send packets to an address, each of a new flow: one every so
// often, with the time at which it was sent. Those times come out of the pipe, too. It is a
// process of its own, so that nothing that a benchmark does in its own holds it up.
func startSender(from *lab.Host, to netip.AddrPort) (process *exec.Cmd, sent io.ReadCloser, err error) {
	process = exec.Command(os.Args[0])
	process.Env = []string{senderVariable + "=" + to.String()}
	process.Stderr = os.Stderr
	if sent, err = process.StdoutPipe(); err != nil {
		return nil, nil, err
	}
	// The child is forked from a thread of the host's, so it is in its namespace.
	return process, sent, from.Do(process.Start)
}

// send is the sender. It ends when nobody reads what it writes any more.
//
// It sleeps by clock_nanosleep(2) until the next packet is due, on a thread that the
// scheduler prefers and wakes at once: the runtime's own timers are late by a millisecond
// (runtime.netpoll). Who is late none the less sends when it can, and does not catch up.
func send(to string) error {
	dst, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := errors.Join(
		unix.Setpriority(unix.PRIO_PROCESS, 0, -20), // of this thread
		unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0),
	); err != nil {
		return fmt.Errorf("the sender's thread: %w", err)
	}
	remote := &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}
	stamp := make([]byte, 8)
	for next := now(); ; next = max(next+every, now()) {
		due := unix.NsecToTimespec(int64(next))
		for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &due, nil), unix.EINTR) {
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, remote); err != nil {
			return err
		}
		binary.NativeEndian.PutUint64(stamp, uint64(now()))
		// What the server's node answers to an earlier one is no error here.
		_, _ = unix.Write(fd, stamp)
		if err := unix.Close(fd); err != nil {
			return err
		}
		if _, err := os.Stdout.Write(stamp); err != nil {
			return err
		}
	}
}
