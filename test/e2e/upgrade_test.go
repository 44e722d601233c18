//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/test/check"
)

// What TestUpgrade upgrades from and to. upgrade.sh builds both images, and gives them to the nodes.
var (
	upgradeEarlier       = flag.String("upgrade-earlier", "", "the image of the version that TestUpgrade upgrades from; empty: it is left out")
	upgradeEarlierConfig = flag.String("upgrade-earlier-config", "", "that version's folder config")
	upgradeTo            = flag.String("upgrade-to", "", "the image of this tree")
)

// installed is a version of podfence that can be installed.
type installed struct{ name, image, config string }

// TestUpgrade replaces the agents of an earlier version by this tree's, node by node, each by its own manifests,
// then these by those of the earlier one again, and those once more. Meanwhile connections that are allowed go on,
// new ones are made, denied packets are sent without end, and new pods start: nothing that is allowed breaks,
// and nothing that is denied passes, also between nodes of two versions.
func TestUpgrade(t *testing.T) {
	if *upgradeEarlier == "" {
		t.Skip("it needs the images of two versions: make test-upgrade builds them, and runs it")
	}
	earlier := installed{"the earlier version", *upgradeEarlier, *upgradeEarlierConfig}
	this := installed{"this one", *upgradeTo, "../../config"}
	t.Cleanup(func() {
		kubectl(t, "apply", "-k", withImage(t, this.config+"/default", this.image))
		agentsReady(t)
	})
	kubectl(t, "apply", "-k", withImage(t, earlier.config+"/default", earlier.image))
	agentsReady(t)
	first := expectImage(t, earlier)

	g := keepGoing(t) // pods that the earlier version has connected
	for _, stranger := range g.strangers {
		spray(t, stranger) // also to the pods that start meanwhile
	}
	started := 0
	for i, to := range []installed{this, earlier, this} {
		started += g.roll(t, i, to)
		if now := expectImage(t, to); (now == first) == (to == this) {
			t.Errorf("agents of %s run the image %s, and those of the earlier version had %s", to.name, now, first)
		}
	}
	g.check(t)
	g.count(t, started)
}

// roll has the agents replaced by those of a version, while pods start, one on each node at a time, until all are
// replaced, and at least once after that. It returns how many.
func (g *goesOn) roll(t *testing.T, turn int, to installed) (started int) {
	t.Helper()
	before, begin := agents(t), time.Now()
	kubectl(t, "apply", "-k", withImage(t, to.config+"/default", to.image))
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	rolled := make(chan error, 1)
	wait.Go(func() {
		_, err := theCluster.Kubectl(ctx, "--namespace", agentNamespace, "rollout", "status", "--timeout=4m", "daemonset/"+agentName)
		rolled <- err
	})
	for over := false; !over; {
		select {
		case err := <-rolled:
			if err != nil {
				t.Fatalf("agents of %s: %v", to.name, err)
			}
			over = true
			t.Logf("all agents are of %s after %s", to.name, time.Since(begin).Round(time.Second))
		default:
		}
		var pods []*corev1.Pod
		for _, node := range bothNodes {
			pods = append(pods, newPod(g.namespace, fmt.Sprintf("new-%d-%d-%s", turn, started, node), on(node), labelled("app", "server")))
		}
		for _, pod := range start(t, pods...) {
			started++
			for i, friend := range g.friends {
				stranger := g.strangers[i]
				expectWays(t, "a pod that starts meanwhile to be connected and fenced", ways(friend.Name, netnsOf(t, friend), podIPs(pod), 8080, 0),
					ways(stranger.Name, netnsOf(t, stranger), podIPs(pod), 8080, 0))
			}
			if n := received(t, pod); n != 0 {
				t.Errorf("%s has received %d denied packets", pod.Name, n)
			}
		}
	}
	for uid := range agents(t) {
		if before[uid] {
			t.Errorf("agent %s was not replaced", uid)
		}
	}
	return started
}

// expectImage waits until each node's agent runs the image of a version, and returns its digest.
func expectImage(t *testing.T, of installed) (digest string) {
	t.Helper()
	check.Eventually(t, time.Minute, "the agents to be those of "+of.name, func() error {
		pods := agentPods(t)
		var digests []string
		for _, node := range bothNodes {
			if pods[node] == nil || len(pods[node].Status.ContainerStatuses) == 0 || !isReady(pods[node]) {
				return fmt.Errorf("%s has none that is ready", node)
			}
			if image := pods[node].Spec.Containers[0].Image; image != of.image {
				return fmt.Errorf("that of %s has the image %s", node, image)
			}
			digests = append(digests, pods[node].Status.ContainerStatuses[0].ImageID)
		}
		if digest = digests[0]; digest == "" || slices.ContainsFunc(digests, func(d string) bool { return d != digest }) {
			return fmt.Errorf("nodes run different images: %v", digests)
		}
		return nil
	})
	return digest
}

// count logs what has been tried: leaks and breaks have failed the test where they were seen.
func (g *goesOn) count(t *testing.T, started int) {
	t.Helper()
	var requests, connections, slow int64
	broken, leaked := 0, 0
	for _, talk := range g.talks {
		requests, connections, slow = requests+talk.requests.Load(), connections+talk.connections.Load(), slow+talk.slow.Load()
		broken += len(talk.errors)
	}
	for _, server := range g.servers {
		leaked += received(t, server)
	}
	t.Logf("%d requests on %d kept connections and %d new connections, %d broken, %d of the new ones with a packet sent twice; "+
		"%d pods have started meanwhile; of the denied packets, which a pod without policies has received %d of, %d have passed",
		requests, len(g.talks), connections, broken, slow, started, received(t, g.control), leaked)
}
