package connectivity_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"github.com/podfence/podfence/test/lab"
)

// nft runs nft on a host.
func (c *cluster) nft(h *lab.Host, text string) string {
	c.t.Helper()
	var out []byte
	err := h.Do(func() (err error) { // a child is in its thread's namespace
		out, err = exec.Command("nft", text).CombinedOutput()
		return err
	})
	if err != nil {
		c.t.Fatalf("%s: nft %s: %v: %s", h, text, err, out)
	}
	return string(out)
}

// meter counts what arrives at a host, in the kernel, which misses nothing. A
// packet that the host's own rules drop has not arrived at a node.
func (c *cluster) meter(h *lab.Host) {
	c.t.Helper()
	hook := "prerouting priority raw"
	if h == &h.Node().Host {
		hook = "input priority 200"
	}
	c.nft(h, fmt.Sprintf(`table inet arrivals {
		counter denied {}
		counter allowed {}
		chain count {
			type filter hook %s;
			meta l4proto {tcp, udp} th dport %d counter name denied
			meta l4proto {tcp, udp} th dport %d counter name allowed
		}
	}`, hook, deniedPort, allowedPort))
}

// What the meters tell apart.
const (
	allowedPort = 1000
	deniedPort  = 2000
)

var packets = regexp.MustCompile(`packets (\d+)`)

// count reads a meter.
func (c *cluster) count(h *lab.Host, name string) int {
	c.t.Helper()
	text := c.nft(h, "list counter inet arrivals "+name)
	n, err := strconv.Atoi(packets.FindStringSubmatch(text)[1])
	c.must(err)
	return n
}
