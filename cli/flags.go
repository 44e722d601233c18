package cli

import (
	"fmt"
	"math/bits"
	"net"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/podfence/podfence/ruleset"
)

// enforcement are the flags that change what is enforced.
type enforcement struct {
	deny, podToNode, revokedMark string
	maxConnections               uint32
	nflogGroup                   uint16
}

func (e *enforcement) flags(f *pflag.FlagSet) {
	f.StringVar(&e.deny, "deny", "drop", "what happens to denied packets: drop (silently) or reject (with an ICMP error, admin-prohibited)")
	f.StringVar(&e.podToNode, "pod-to-node", "police", "traffic of pods to their own node: police (by their egress policies) or allow")
	f.Uint32Var(&e.maxConnections, "max-connections-per-pod", 0, "how many connections that a pod has begun connection tracking may know, of each IP family; the next ones are dropped; 0: as many as the node takes")
	f.Uint16Var(&e.nflogGroup, "nflog-group", 28774, "nflog group that the kernel tells denied packets to, the first of each flow, and by which the agent knows them; no other program may read it; 0: none is told")
	f.StringVar(&e.revokedMark, "revoked-mark", "0x20000000", "bit of the conntrack mark that cuts established flows when a policy no longer allows them; 0: leave them alone")
}

func (e *enforcement) options() (o ruleset.Options, err error) {
	o.Reject, err = either("--deny", e.deny, "drop", "reject")
	if err != nil {
		return o, err
	}
	o.AllowToNode, err = either("--pod-to-node", e.podToNode, "police", "allow")
	if err != nil {
		return o, err
	}
	o.MaxConnections, o.LogGroup = e.maxConnections, e.nflogGroup
	o.RevokedMark, err = markBit(e.revokedMark)
	return o, err
}

// either reports whether a flag has the second of its two values.
func either(flag, value, no, yes string) (bool, error) {
	if value != no && value != yes {
		return false, fmt.Errorf("%s is %q: it must be %s or %s", flag, value, no, yes)
	}
	return value == yes, nil
}

// loopback refuses an address that others than this machine can reach: profiles and answers tell
// much, and taking one costs much.
func loopback(flag, address string) error {
	if address == "0" || address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s is %q: it must be a loopback address with a port, such as 127.0.0.1:9480, or 0", flag, address)
	}
	return nil
}

// markBit reads a mark of one bit, or of none.
func markBit(text string) (uint32, error) {
	bit, err := strconv.ParseUint(text, 0, 32)
	if err != nil || bits.OnesCount64(bit) > 1 {
		return 0, fmt.Errorf("--revoked-mark is %q: it must be one bit of 32, such as 0x20000000, or 0", text)
	}
	return uint32(bit), nil
}
