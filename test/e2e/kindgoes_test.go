//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestClusterPolicyKindGoes: the kind is deleted and installed again, several times, with policies that
// close a border, while agents run, are replaced, and are away. What policies deny stays denied until they
// have vanished, and is open again then, once there is an agent to see it. All the while those who
// talk, as NetworkPolicies let them, go on without a packet lost, and NetworkPolicies are enforced.
func TestClusterPolicyKindGoes(t *testing.T) {
	withoutKind(t)
	folder := channel(t, "standard")
	g := keepGoing(t)
	syns := synsTwice(t, g.friends...)
	b := newBorder(t)
	api := clusterAPI(t, "v1beta1")
	closing := b.closing(t, g.namespace)
	closes := func(what string) {
		t.Helper()
		installed := time.Now()
		installKind(t, folder, "v1beta1")
		closing = b.closing(t, g.namespace) // without what the API server has written into those of before
		createPolicies(t, api, closing...)
		last := b.expectClosed(t, what)
		t.Logf("%s: the last packet crossed the border %s after the kind was installed", what, last.Sub(installed).Round(time.Millisecond))
	}
	goes := func() {
		t.Helper()
		kubectl(t, "delete", "crd", clusterKind, "--wait=false")
		b.expectClosedUntilGone(t, api, closing)
		awaitUnknown(t)
		g.checkClosed(t)
	}

	closes("the kind comes while agents run")
	goes()
	b.expectOpen(t, "policies to end with their kind")

	closes("the kind comes again")
	replaceAgents(t)
	b.expectStillClosed(t, "agents are replaced while the kind is there")
	goes()
	b.expectOpen(t, "policies to end with their kind, for agents that have started with it")

	replaceAgents(t)
	g.checkClosed(t)
	closes("the kind comes after agents have started without it")
	bringBack := takeAgents(t, bothNodes...)
	b.expectStillClosed(t, "agents are taken away")
	goes()
	b.expectStillClosed(t, "the kind goes while no agent is there to see it")
	bringBack()
	b.expectOpen(t, "agents that start without the kind not to enforce policies of it")
	g.check(t)
	if n := synsTwice(t, g.friends...) - syns; n != 0 {
		t.Errorf("%d SYNs of friends were sent twice", n)
	}
}

// TestClusterPolicyUpgrade: the definition of the API's v0.2.0, which has v1alpha2 alone, is replaced by
// today's. What policies deny stays denied all the time, and those who talk go on. Agents read v1beta1
// then, by which the policies can be changed, and which is enough.
func TestClusterPolicyUpgrade(t *testing.T) {
	before := channelOf(t, "v0.2.0", "standard")
	withoutKind(t)
	b := newBorder(t)
	b.talk(t)
	closing := b.closing(t)
	since := time.Now()
	installKind(t, before, "v1alpha2")
	createPolicies(t, clusterAPI(t, "v1alpha2"), closing...)
	b.expectClosed(t, "policies of v1alpha2 to be enforced")
	expectWatched(t, "v1alpha2", since)

	since = time.Now()
	installKind(t, channel(t, "standard"), "v1beta1")
	expectWatched(t, "v1beta1", since)
	t.Logf("agents read v1beta1 %s after the definition was applied", time.Since(since).Round(time.Millisecond))
	b.expectStillClosed(t, "the definition is replaced, and agents read the other version")

	// To and fro by v1beta1.
	api := clusterAPI(t, "v1beta1")
	all := named(b.inside)
	changePolicy(t, api, closing[0].Name, fmt.Sprintf(`{tier: Admin, priority: 10, subject: {namespaces: %s}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`, all))
	expectWays(t, "a policy that was changed to accept", b.inward(t), b.outward(t))
	changePolicy(t, api, closing[0].Name, fmt.Sprintf(`{tier: Baseline, priority: 1000, subject: {namespaces: %s}, ingress: [
		{action: Accept, from: [{namespaces: %s}]}, {action: Deny, from: [{namespaces: {}}]}]}`, all, all))
	b.expectClosed(t, "a policy that was changed to deny")
	replaceAgents(t)
	b.expectStillClosed(t, "agents are replaced while both versions are served")

	// As a later version of the API will have it. The API server ends all watches of the kind for that,
	// after a second.
	serveNoLonger(t, "v1alpha2")
	time.Sleep(3 * time.Second)
	b.expectStillClosed(t, "v1alpha2 is not served any more")
	deletePolicies(t, api, closing...)
	b.expectOpen(t, "policies to be deleted by v1beta1")
	b.check(t)
}

// channelOf is the folder that defines the kind as a channel of an older version of the API does.
func channelOf(t *testing.T, version, name string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", policyAPI+"@"+version)
	cmd.Dir = t.TempDir() // outside of podfence's module, which has another version
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if unread := json.Unmarshal(out, &module); err != nil || unread != nil || module.Dir == "" {
		t.Skipf("%s of the API cannot be had, and without it there is nothing to upgrade from: %v: %s", version, err, out)
	}
	return filepath.Join(module.Dir, "config", "crd", name)
}

// serveNoLonger has the API server not serve a version of the kind any more.
func serveNoLonger(t *testing.T, version string) {
	t.Helper()
	var definition struct {
		Spec struct{ Versions []struct{ Name string } }
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "crd", clusterKind, "-o", "json")), &definition); err != nil {
		t.Fatal(err)
	}
	for i, v := range definition.Spec.Versions {
		if v.Name == version {
			kubectl(t, "patch", "crd", clusterKind, "--type=json", "--patch", fmt.Sprintf(`[{"op": "replace", "path": "/spec/versions/%d/served", "value": false}]`, i))
			return
		}
	}
	t.Fatalf("the definition has no version %s: %+v", version, definition)
}
