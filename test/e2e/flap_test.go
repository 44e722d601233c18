//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/cni/plugin"
)

// repairedWithin is how long it may take until pods reach each other again whose network
// something has taken away: less than until the agent looks by itself, once a minute.
const repairedWithin = 20 * time.Second

// TestNetworkTakenAway: what a network manager, an operator or a flapping link takes away
// of a node's network comes back at once, and running pods reach each other again, on one
// node and across. Nothing that is denied passes meanwhile.
func TestNetworkTakenAway(t *testing.T) {
	g := keepGoing(t)
	for _, talk := range g.talks {
		talk.end() // they may break; it is about what comes after
	}
	host := theCluster.HostNetNS("node2")
	open := append(g.openWays(t), ways("node2", host, podIPs(g.servers[1]), 8080, 0)...)
	for _, away := range []struct {
		name     string
		commands []string
	}{
		{"bridge down and up", []string{"ip link set podfence0 down", "ip link set podfence0 up"}},
		{"bridge down", []string{"ip link set podfence0 down"}},
		{"routes", []string{"ip -4 route flush proto 112", "ip -6 route flush proto 112"}},
		{"neighbours", []string{"ip neigh flush dev podfence0 nud permanent"}},
		{"addresses", []string{"ip addr flush dev podfence0"}},
		{"uplink down and up", []string{"ip link set eth0 down", "ip link set eth0 up",
			"ip route replace default via 172.30.0.2", "sh -c ip -6 addr show dev eth0 | grep -q fd30 || ip addr add fd30::12/64 dev eth0 nodad"}},
		{"forwarding database", []string{"sh -c bridge fdb show br podfence0 | awk '/static/ && /master podfence0/ { print $1, $3 }' | while read mac dev; do bridge fdb del $mac dev $dev master; done"}},
		{"ports' settings", []string{"sh -c for port in $(ip -o link show master podfence0 | awk -F'[ :@]+' '{ print $2 }'); do ip link set dev $port group 0; bridge link set dev $port learning on flood on; done"}},
		{"ports down", []string{"sh -c for port in $(ip -o link show master podfence0 | awk -F'[ :@]+' '{ print $2 }'); do ip link set $port down; done"}},
		{"ports out of the bridge", []string{"sh -c for port in $(ip -o link show master podfence0 | awk -F'[ :@]+' '{ print $2 }'); do ip link set $port nomaster; done"}},
	} {
		back := t.Run(away.name, func(t *testing.T) {
			for _, command := range away.commands {
				run(t, "node2", words(command)...)
			}
			begin := time.Now()
			for _, w := range open {
				eventually(t, repairedWithin, "the way "+w.String()+" to be back", w.opens)
			}
			t.Logf("after %s all ways are open", time.Since(begin).Round(time.Millisecond))
		})
		if !back {
			t.Fatal("it is missing yet, and nothing that follows would show more")
		}
	}
	// What has been made again is what the plugin makes, guard and all.
	expectPorts(t, "node2")
	agentsReady(t)
	g.checkClosed(t)
}

// words splits a command as a shell would that knows no quotes; what follows sh -c is one.
func words(command string) []string {
	if script, is := strings.CutPrefix(command, "sh -c "); is {
		return []string{"sh", "-c", script}
	}
	return strings.Fields(command)
}

// expectPorts waits until all pods' ports of a node are as the guard knows them.
func expectPorts(t *testing.T, node string) {
	t.Helper()
	eventually(t, 2*time.Minute, "the ports of "+node+" to be in their group", func() error {
		out := run(t, node, "sh", "-c", "ip -o -d link show master podfence0")
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			if !strings.Contains(line, fmt.Sprintf("group %d", plugin.LinkGroup)) || strings.Contains(line, "learning on") {
				return fmt.Errorf("one is not: %s", line)
			}
		}
		return nil
	})
}
