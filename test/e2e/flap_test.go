//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
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
	noneEnding(t, "node2") // their part of the network would go by itself
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
			"ip route replace default via 172.30.0.2", // As the node's own network manager would; an IPv6 address goes with the link.
			"sh -c ip -6 addr show dev eth0 | grep -q fd30 || ip addr add fd30::12/64 dev eth0 nodad",
			"ip -6 route replace default via fd30::2"}},
		{"forwarding database", []string{"sh -c bridge fdb show br podfence0 | awk '/static/ && /master podfence0/ { print $1, $3 }' | while read mac dev; do bridge fdb del $mac dev $dev master; done"}},
		{"ports' settings", []string{"sh -c for port in $(ip -o link show master podfence0 | awk -F'[ :@]+' '{ print $2 }'); do ip link set dev $port group 0; bridge link set dev $port learning on flood on; done"}},
		{"ports down", []string{"sh -c for port in $(ip -o link show master podfence0 | awk -F'[ :@]+' '{ print $2 }'); do ip link set $port down; done"}},
		{"ports out of the bridge", []string{"sh -c for port in $(ip -o link show master podfence0 | awk -F'[ :@]+' '{ print $2 }'); do ip link set $port nomaster; done"}},
	} {
		back := t.Run(away.name, func(t *testing.T) {
			before := podNetwork(t, "node2")
			for _, command := range away.commands {
				run(t, "node2", words(command)...)
			}
			begin := time.Now()
			for _, w := range open {
				check.Eventually(t, repairedWithin, "the way "+w.String()+" to be back", w.opens)
			}
			t.Logf("after %s all ways are open", time.Since(begin).Round(time.Millisecond))
			check.Eventually(t, repairedWithin, "all of it to be back", func() error {
				if now := podNetwork(t, "node2"); now != before {
					return fmt.Errorf("there was\n%s\nand there is\n%s", before, now)
				}
				return nil
			})
		})
		if !back {
			t.Fatal("it is missing yet, and nothing that follows would show more")
		}
	}
	agentsReady(t)
	g.checkClosed(t)
}

// noneEnding waits until no pod of a node is on its way out, nor what the API has forgotten
// of one that was deleted by force.
func noneEnding(t *testing.T, node string) {
	t.Helper()
	check.Eventually(t, time.Minute, "pods that are deleted to be gone", func() error {
		namespaces, err := client.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, ns := range namespaces.Items {
			if ns.DeletionTimestamp != nil { // its pods may not be ending yet
				return fmt.Errorf("namespace %s is ending", ns.Name)
			}
		}
		pods, err := client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return err
		}
		connected := 0
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil {
				return fmt.Errorf("%s/%s is ending", pod.Namespace, pod.Name)
			}
			if ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed; !pod.Spec.HostNetwork && !ended {
				connected++
			}
		}
		if ports := strings.Count(run(t, node, "ip", "-o", "link", "show", "master", "podfence0"), "\n"); ports != connected {
			return fmt.Errorf("%d pods are connected, and the API shows %d", ports, connected)
		}
		return nil
	})
}

// words splits a command as a shell would that knows no quotes; what follows sh -c is one.
func words(command string) []string {
	if script, is := strings.CutPrefix(command, "sh -c "); is {
		return []string{"sh", "-c", script}
	}
	return strings.Fields(command)
}

// podNetwork is what a node has of its pods' network, in a form that is the same when that
// is: routes, permanent neighbours, the bridge's addresses, what is behind its ports, and
// the ports' settings.
func podNetwork(t *testing.T, node string) string {
	t.Helper()
	return run(t, node, "sh", "-c", `{ ip -4 route show table all proto 112; ip -6 route show table all proto 112; ip rule show; ip -6 rule show
ip neigh show dev podfence0 nud permanent; ip -o addr show dev podfence0 scope global | awk '{ print $4 }'
bridge fdb show br podfence0 | grep static
ip -o -d link show master podfence0 | awk -F'[ :@]+' '{ printf "%s", $2 } { for (i = 1; i < NF; i++) if ($i ~ /^(group|state|learning|flood|mcast_flood|hairpin)$/) printf " %s %s", $i, $(i+1); print "" }'
} | sort`)
}
