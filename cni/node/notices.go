package node

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// notices turn what the kernel tells of changes in a network namespace into tokens. A token says
// that something may have changed. Whoever takes it has to look what.
type notices struct {
	socket *nl.NetlinkSocket
	// concern says whether a message counts as a change; if it is nil, all messages do.
	concern func(syscall.NetlinkMessage) bool
	tokens  chan struct{}
	closed  atomic.Bool
}

// listen joins groups of rtnetlink(7), in the network namespace of the calling thread.
func listen(concern func(syscall.NetlinkMessage) bool, groups ...uint) (*notices, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("listen to changes of the network: %w", err)
	}
	n := &notices{socket: socket, concern: concern, tokens: make(chan struct{}, 1)}
	go n.read()
	return n, nil
}

func (n *notices) close() {
	n.closed.Store(true)
	n.socket.Close()
}

// listenPause keeps an error that comes again and again from taking a processor.
const listenPause = 100 * time.Millisecond

// read turns messages into tokens until the socket is closed. What is lost for want of
// room in the socket's buffer, or cannot be read, is a change, too.
func (n *notices) read() {
	for {
		messages, _, err := n.socket.Receive()
		if n.closed.Load() {
			return
		}
		concerns := err != nil || n.concern == nil
		for _, message := range messages {
			concerns = concerns || n.concern(message)
		}
		if err != nil {
			time.Sleep(listenPause)
		}
		if !concerns {
			continue
		}
		select {
		case n.tokens <- struct{}{}:
		default:
		}
	}
}
