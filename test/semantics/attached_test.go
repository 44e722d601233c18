package semantics_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// attach has the CNI plugin say what containers of the pods have been given: the addresses
// that they were last seen with.
func (c *fenced) attach(s policy.Snapshot, pods ...string) policy.Snapshot {
	c.t.Helper()
	s.Node, s.LastPodCIDRs = random.Node, policy.NodeOf(random.Nodes()[0]).PodCIDRs
	for _, name := range pods {
		host := c.host(name)
		key := policy.Key{}
		for i := range len(name) {
			if name[i] == '/' {
				key = policy.Key{Namespace: name[:i], Name: name[i+1:]}
			}
		}
		s.Attachments = append(s.Attachments, policy.Attachment{
			ContainerID: "container-of-" + key.Name, IfName: "eth0", Pod: key, UID: types.UID(name), IPs: host.IPs,
		})
	}
	return s
}

// closedNew says that nothing passes to or from shop/new, from the node neither.
const closedNew = `
	deny shop/new -> db/pg tcp 80
	deny shop/new -> world tcp 80
	deny shop/new -> node tcp 80
	deny shop/new -> ops/far ping
	deny db/pg -> shop/new tcp 80
	deny world -> shop/new tcp 80
	deny node -> shop/new tcp 80
	deny ops/far -> shop/new ping
`

// TestA29_ClosedUntilRemoved: an address that a container has is closed while its pod is
// not known, whatever has become of that, and whoever else seems to have it.
func TestA29_ClosedUntilRemoved(t *testing.T) {
	with := base + "pod shop/new app=web\n"
	open := `
		allow shop/new -> db/pg tcp 80
		allow db/pg -> shop/new tcp 80
		allow node -> shop/new tcp 80
	`
	gone := func(s *policy.Snapshot) { s.Pods = s.Pods[:len(s.Pods)-1] }
	last := func(change func(*corev1.Pod)) func(*policy.Snapshot) {
		return func(s *policy.Snapshot) { change(s.Pods[len(s.Pods)-1]) }
	}
	for name, change := range map[string]func(*policy.Snapshot){
		"gone":      gone,
		"succeeded": last(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		"failed":    last(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		"remade":    last(func(p *corev1.Pod) { p.UID = "another" }),
		"elsewhere": last(func(p *corev1.Pod) { p.Spec.NodeName, p.Status.PodIPs = random.OtherNode, nil }),
		"claimed by a pod of another node": func(s *policy.Snapshot) {
			last(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.NodeName = "thief", "thief", random.OtherNode })(s)
		},
		"claimed by a pod of this node": func(s *policy.Snapshot) {
			last(func(p *corev1.Pod) { p.Name, p.UID = "heir", "heir" })(s)
		},
		"gone with the Node": func(s *policy.Snapshot) { gone(s); s.Nodes = s.Nodes[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			c := cluster(t, with)
			c.set(c.attach(snapshot(t, with), "shop/new"))
			c.expect(open)
			s := c.attach(snapshot(t, with), "shop/new")
			change(&s)
			c.set(s)
			if name == "gone with the Node" { // whose own addresses are not known either
				c.expect(`
					deny shop/new -> db/pg tcp 80
					deny db/pg -> shop/new tcp 80
					deny shop/new -> ops/far ping
				`)
				return
			}
			c.expect(closedNew)
		})
	}
}

// TestA27_AttachmentsKnow: after a reboot, or when a runtime has remade its sandboxes, the
// API shows last life's addresses, permuted. A default-denied pod is that all the same, and
// nobody has another's rights as a peer.
func TestA27_AttachmentsKnow(t *testing.T) {
	pods := func(denied, client string) string {
		return `
			ns shop team=store
			pod shop/denied ` + denied + `
			pod shop/client app=client ` + client + `
			pod db/pg
			policy shop/deny {podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}, policyTypes: [Ingress, Egress]}
			policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}, podSelector: {matchLabels: {app: client}}}]}]}`
	}
	c := cluster(t, pods(``, ``))
	truth := `
		deny  shop/denied -> db/pg tcp 80
		deny  db/pg -> shop/denied tcp 80
		deny  shop/denied -> world tcp 80
		allow shop/client -> db/pg tcp 80
		allow world -> shop/client tcp 80
	`
	c.expect(truth)
	for _, shown := range [][2]string{
		{`!at=shop/client`, `!at=shop/denied`}, {`!at=shop/client`, ``}, {``, `!at=shop/denied`}, {`!noip`, `!at=shop/denied`},
		{`!at=shop/client !terminating`, `!at=shop/denied !started=9`}, {`!at=db/pg`, `!at=db/pg`},
	} {
		c.set(c.attach(snapshot(t, pods(shown[0], shown[1])), "shop/denied", "shop/client", "db/pg"))
		c.expect(truth)
	}
}

// TestA29_ClosingCutsFlows: the flows that a container has open are cut when its pod is not
// known any more, those that the node has begun too, and go on if it comes back.
func TestA29_ClosingCutsFlows(t *testing.T) {
	with := base + "pod shop/new app=web\n"
	c := revoking(t, lab.Routed, with)
	c.set(c.attach(snapshot(t, with), "shop/new"))
	for _, on := range []string{"shop/new", "db/pg", "node"} {
		c.serve(on, policy.TCP, 7000)
		c.serve(on, policy.UDP, 7000)
	}
	flows := c.converse("to it", "db/pg", 7000, c.host("shop/new").IPs...)
	flows = append(flows, c.converse("from it", "shop/new", 7000, c.host("db/pg").IPs...)...)
	flows = append(flows, c.converse("to the node", "shop/new", 7000, random.NodeAddrs...)...)
	flows = append(flows, c.converse("from the node", "node", 7000, c.host("shop/new").IPs...)...)
	others := c.converse("of others", "shop/web", 7000, c.host("db/pg").IPs...)
	c.expectAll("before", true, flows)
	s := c.attach(snapshot(t, base), "shop/new")
	c.set(s)
	if revoked, _ := c.judge(); revoked != len(flows) {
		t.Errorf("revoked %d of %d flows", revoked, len(flows))
	}
	c.expectAll("closed", false, flows)
	c.expectAll("others", true, others)
	c.set(c.attach(snapshot(t, with), "shop/new"))
	c.judge()
	c.expectAll("known again", true, flows)
}
