package cli

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
)

// runningName is what the name of each agent's abstract socket begins with (unix(7)). Such a name
// belongs to a network namespace, as the tables do. It needs no folder that agent and uninstaller
// share, and it is gone with the process, however that ends.
const runningName = "@podfence-agent-"

// announceRunning lets uninstall know that an agent runs, until what it returns is closed. Two agents
// may run for a moment, so each has a name of its own.
func announceRunning() (io.Closer, error) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: runningName + rand.Text(), Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("announce that an agent runs: %w", err)
	}
	return socket, nil
}

// agentRuns reports whether an agent runs in the network namespace of the calling thread.
func agentRuns() (bool, error) {
	sockets, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return false, fmt.Errorf("find out whether an agent runs: %w", err)
	}
	return bytes.Contains(sockets, []byte(" "+runningName)), nil
}
