package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Heartbeat is a socket that sends packets to itself, over the loopback device. Rules see by them that the process lives, and
// that it is not frozen: an element that they renew goes when no packet comes. An element that is renewed by a transaction
// would do the same, but each transaction is a new generation of the ruleset. Whoever lists the ruleset (nft, iptables-nft)
// begins again when the generation has changed meanwhile, and would never end where that takes longer than the time between
// two of them.
type Heartbeat struct {
	conn *net.UDPConn
	to   netip.AddrPort
}

// OpenHeartbeat makes the socket, in the network namespace of the options.
func OpenHeartbeat(options Options) (*Heartbeat, error) {
	conn, err := listenIn(options.NetNS)
	if err != nil {
		return nil, &OpError{Op: "make a socket for heartbeats", Err: err}
	}
	// Nobody reads them.
	if err := conn.SetReadBuffer(0); err != nil {
		return nil, &OpError{Op: "make a socket for heartbeats", Err: errors.Join(err, conn.Close())}
	}
	return &Heartbeat{conn: conn, to: netip.MustParseAddrPort(conn.LocalAddr().String())}, nil
}

// listenIn makes the socket in a network namespace; 0: that of the calling thread.
func listenIn(netns int) (conn *net.UDPConn, err error) {
	listen := func() { conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}) }
	if netns == 0 {
		listen()
		return conn, err
	}
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Setns(netns, unix.CLONE_NEWNET); err == nil {
			listen()
		}
	})
	done.Wait()
	return conn, err
}

// To is the address and UDP port that Beat sends to.
func (h *Heartbeat) To() netip.AddrPort { return h.to }

// Beat sends a packet.
func (h *Heartbeat) Beat() error {
	if _, err := h.conn.WriteToUDPAddrPort([]byte{0}, h.to); err != nil {
		return &OpError{Op: fmt.Sprintf("send a heartbeat to %s", h.to), Err: err}
	}
	return nil
}

// Close closes the socket.
func (h *Heartbeat) Close() error { return h.conn.Close() }
