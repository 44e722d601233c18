package steady

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// listenTCP opens a TCP listener on a host.
func listenTCP(host *lab.Host, at netip.AddrPort) (l net.Listener, err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	err = host.Do(func() error {
		l, err = config.Listen(context.Background(), "tcp", at.String())
		return err
	})
	return l, err
}

// keep uses a connection again and again, and once more in the end: so after whatever has
// happened meanwhile. One that breaks is followed by another.
func (t *Traffic) keep(l net.Listener, connection talk) {
	defer func() { connection.close() }()
	use := func() error {
		t.keeps.Add(1)
		var err error
		begun := time.Now()
		if connection.caller == nil {
			connection, err = t.connect(l)
		}
		if err == nil {
			err = connection.echo()
		}
		if err != nil {
			t.broke(begun, "kept connection", err)
			connection.close()
			connection = talk{}
			return nil
		}
		t.took(time.Since(begun))
		return nil
	}
	t.steadily(use)
	_ = use() // what breaks is noted
}

// call makes a new connection, uses it once and closes it.
func (t *Traffic) call(l net.Listener) {
	t.makes.Add(1)
	begun := time.Now()
	connection, err := t.connect(l)
	if err == nil {
		err = connection.echo()
	}
	connection.close()
	switch {
	case errors.Is(err, errLost):
		t.note(&t.late, Incident{begun, time.Now(), fmt.Sprintf("new connection: %v", err)})
	case err != nil:
		t.broke(begun, "new connection", err)
	default:
		t.took(time.Since(begun))
	}
}

// took notes how long an exchange has taken.
func (t *Traffic) took(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slowest = max(t.slowest, d)
}

func (t *Traffic) broke(begun time.Time, what string, err error) {
	t.note(&t.breaks, Incident{begun, time.Now(), fmt.Sprintf("%s: %v", what, err)})
}

// talk is a TCP connection from caller to open: both its ends.
type talk struct{ caller, open net.Conn }

// connect makes a connection to a listener that nobody else uses just now.
func (t *Traffic) connect(l net.Listener) (c talk, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	if c.caller, err = t.hosts[Caller].Dial(ctx, policy.TCP, to); err != nil {
		return talk{}, err
	}
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	for {
		if c.open, err = l.Accept(); err != nil {
			c.close()
			return talk{}, err
		}
		if c.open.RemoteAddr().String() == c.caller.LocalAddr().String() {
			return c, nil
		}
		_ = c.open.Close() // one that was given up before it was made
	}
}

// echo sends an octet there and back. A packet that was lost on the way is an
// error, although TCP has sent it again.
func (c talk) echo() error {
	for _, way := range [][2]net.Conn{{c.caller, c.open}, {c.open, c.caller}} {
		from, to := way[0], way[1]
		if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := from.Write([]byte("x")); err != nil {
			return err
		}
		if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
			return err
		}
	}
	for _, end := range []net.Conn{c.caller, c.open} {
		n, err := resent(end)
		if err == nil && n > 0 {
			time.Sleep(confession)
			n, err = resent(end)
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%s to %s: %d %w", end.LocalAddr(), end.RemoteAddr(), n, errLost)
		}
	}
	return nil
}

// errLost says that an exchange came about, but not at the first attempt.
var errLost = errors.New("packets were lost, and sent again")

// confession is how long the other end may take to say that a packet came twice.
const confession = 100 * time.Millisecond

// resent is how many packets of a connection's end were sent again but came
// once. Those that were only late, as on a busy machine, came twice, and the
// other end has said so (RFC 2883).
func resent(end net.Conn) (n int, err error) {
	raw, err := end.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	controlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err = errors.Join(controlErr, err); err != nil {
		return 0, fmt.Errorf("TCP_INFO: %w", err)
	}
	return int(info.Total_retrans) - int(info.Dsack_dups), nil
}

// close resets the connection: one that was closed in order would stay with
// the kernel for a minute, and there are many.
func (c talk) close() {
	if c.caller != nil {
		_ = c.caller.(*net.TCPConn).SetLinger(0)
		_ = c.caller.Close()
	}
	if c.open != nil {
		_ = c.open.Close()
	}
}
