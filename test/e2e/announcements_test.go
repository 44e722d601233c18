//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

// testAgent is the name by which these tests go in the API server's record, where they use what is
// the agents'.
const testAgent = "podfence-e2e"

// as is a client for podfence's own objects that has a token for its credentials.
func as(t *testing.T, token string) ctrlclient.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := rest.AnonymousClientConfig(config)
	c.Dial, c.QPS, c.Burst, c.BearerToken = config.Dial, 1000, 1000, token
	c.UserAgent = testAgent
	mapper := meta.NewDefaultRESTMapper(nil)
	addresses := v1alpha1.GroupVersion.WithResource("podaddresses")
	mapper.AddSpecific(v1alpha1.GroupVersion.WithKind("PodAddresses"), addresses, addresses, meta.RESTScopeRoot)
	made, err := ctrlclient.New(c, ctrlclient.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// agentToken is the token that the agent of a node has, from its file.
func agentToken(t *testing.T, node string) string {
	t.Helper()
	token, err := os.ReadFile(filepath.Join("/proc", agentProcesses(t)[node], "root/var/run/secrets/kubernetes.io/serviceaccount/token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(token))
}

// componentToken is that of a component of the cluster, as its kubeconfig has it.
func componentToken(t *testing.T, component string) string {
	t.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", filepath.Join(filepath.Dir(theCluster.AdminConfig()), component+".conf"))
	if err != nil {
		t.Fatal(err)
	}
	return c.BearerToken
}

// newToken is a token for a service account, bound to an object or to none.
func newToken(t *testing.T, namespace, name string, bound *authenticationv1.BoundObjectReference) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	made, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(context.Background(), name, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.Status.Token
}

// announcedOf is what the API has of a node's pods.
func announcedOf(t *testing.T, node string) *v1alpha1.PodAddresses {
	t.Helper()
	object := &v1alpha1.PodAddresses{}
	if err := as(t, componentToken(t, "admin")).Get(context.Background(), ctrlclient.ObjectKey{Name: node}, object); err != nil {
		t.Fatal(err)
	}
	return object
}

// expectAnnouncing waits until the agents announce, and believe what others do: they look once a
// minute whether the cluster refuses lies, which it may not do yet when they start for the first time.
func expectAnnouncing(t *testing.T) {
	t.Helper()
	for _, node := range bothNodes {
		check.Eventually(t, 3*time.Minute, "the agent of "+node+" to announce", func() error {
			if on, err := metric(node, "podfence_announcing"); err != nil || on != 1 {
				return fmt.Errorf("podfence_announcing is %v: %v", on, err)
			}
			return nil
		})
	}
}

// metric is a metric of a node's agent.
func metric(node, name string) (value float64, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.InsidePath(theCluster.HostNetNS(node), func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}
	response, err := (&http.Client{Timeout: 10 * time.Second, Transport: transport}).Get("http://127.0.0.1:9478/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if text, is := strings.CutPrefix(lines.Text(), name+" "); is {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", node, name)
}

// TestWhoMayAnnounce: nobody but a node's own agent writes what is said of that node's pods: not the
// agent of another node, a tenant, a kubelet, nor one who has a token for the agents' account that
// is bound to no node. Agents delete nothing, not even their own.
func TestWhoMayAnnounce(t *testing.T) {
	expectAnnouncing(t)
	noneEnding(t, "node1")
	ns := newNamespace(t)
	start(t, newPod(ns, "pod", on("node1")), newPod(ns, "other", on("node2"))) // so that there is something to be said
	tenant := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "tenant"}}
	if _, err := client.CoreV1().ServiceAccounts(ns).Create(context.Background(), tenant, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	admin := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "tenant"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "tenant"}},
	}
	if _, err := client.RbacV1().RoleBindings(ns).Create(context.Background(), admin, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	agent2 := agentPods(t)["node2"]
	bound := &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: agent2.Name, UID: agent2.UID}

	before := announcedOf(t, "node1")
	expect := func(who, token string, dryRun bool, refused func(what string) bool) {
		t.Helper()
		c := as(t, token)
		if dryRun {
			c = ctrlclient.NewDryRunClient(c)
		}
		count := 0
		for what, err := range attempts(t, before, c) {
			if is := apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err); is != refused(what) {
				t.Errorf("%s: to %s: %v", who, what, err)
			} else if is {
				count++
			}
		}
		t.Logf("%s: %d attempts refused", who, count)
	}
	// What is refused to others, the node's own agent may do, and an administrator may delete.
	expect("node1's agent", agentToken(t, "node1"), true, func(what string) bool { return what != "create" && what != "update" })
	expect("an administrator", componentToken(t, "admin"), true, func(what string) bool { return !strings.HasPrefix(what, "delete") })
	all := func(string) bool { return true }
	expect("node2's agent", agentToken(t, "node2"), false, all)
	expect("node2's agent, by another token", newToken(t, agentNamespace, agentName, bound), false, all)
	expect("an agent's account, bound to no node", newToken(t, agentNamespace, agentName, nil), false, all)
	expect("a tenant who is admin of a namespace", newToken(t, ns, "tenant", nil), false, all)
	expect("a service account", newToken(t, ns, "default", nil), false, all)
	expect("node1's kubelet", componentToken(t, "node1"), false, all)
	expect("node2's kubelet", componentToken(t, "node2"), false, all)
	expect("kube-proxy", componentToken(t, "kube-proxy"), false, all)
	expect("somebody unknown", "unknown", false, all)
	// The node's own agent may have taken pods out meanwhile, and nobody else anything.
	now := announcedOf(t, "node1")
	added := slices.ContainsFunc(now.Pods, func(pod v1alpha1.PodAddress) bool {
		return !slices.ContainsFunc(before.Pods, func(was v1alpha1.PodAddress) bool { return reflect.DeepEqual(pod, was) })
	})
	if now.UID != before.UID || added {
		t.Errorf("what is said of node1's pods has changed from %+v to %+v", before, now)
	}
}

// attempts tries to change what is said of a node's pods in every way that the API has, and says
// what has come of each.
func attempts(t *testing.T, object *v1alpha1.PodAddresses, c ctrlclient.Client) map[string]error {
	t.Helper()
	ctx := context.Background()
	of := func(name string) *v1alpha1.PodAddresses {
		made := &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: name}, Pods: object.DeepCopy().Pods}
		made.APIVersion, made.Kind = v1alpha1.GroupVersion.String(), "PodAddresses"
		return made
	}
	applied, err := json.Marshal(of(object.Name))
	if err != nil {
		t.Fatal(err)
	}
	patch := func(kind types.PatchType, text string, options ...ctrlclient.PatchOption) error {
		return c.Patch(ctx, of(object.Name), ctrlclient.RawPatch(kind, []byte(text)), options...)
	}
	update := retry.RetryOnConflict(retry.DefaultRetry, func() error { return c.Update(ctx, announcedOf(t, object.Name)) })
	return map[string]error{
		"create":               c.Create(ctx, of(object.Name)),
		"create another":       c.Create(ctx, of("node0")),
		"update":               update,
		"patch (merge)":        patch(types.MergePatchType, `{"pods":[]}`),
		"patch (JSON)":         patch(types.JSONPatchType, `[{"op":"add","path":"/pods","value":[]}]`),
		"apply":                patch(types.ApplyPatchType, string(applied), ctrlclient.FieldOwner("e2e"), ctrlclient.ForceOwnership),
		"delete":               c.Delete(ctx, of(object.Name)),
		"delete what there is": c.DeleteAllOf(ctx, &v1alpha1.PodAddresses{}),
	}
}

// lie is a pod, and the addresses that are said to be its.
func lie(pod *corev1.Pod, ips ...string) v1alpha1.PodAddress {
	return v1alpha1.PodAddress{
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, IPs: ips, Supersedes: podIPs(pod), Since: time.Now().UTC().Format(time.RFC3339Nano),
	}
}

// TestLies has one with the rights of node2's agent, by a real token, say of pods what is not so. The
// API server takes it, as it is said of node2's own pods, and it opens nothing: neither what it says of a pod that is
// on node1, nor of an address of node1's pods or of another pod of node2, nor of one in no node's
// range. Each lie comes together with one that counts, whose effect shows that the other has been
// read as well: of a friend on node2 it is said that it has an address that no pod has, so that its
// real one is nobody's to node1. Meanwhile node2 has no agent of its own, which would put it right;
// in the end it has one again, and that does.
func TestLies(t *testing.T) {
	expectAnnouncing(t)
	noneEnding(t, "node2") // its agent would write what is so
	ns, elsewhere := newNamespace(t), newNamespace(t)
	apply(t, ingressFrom(ns, "server", podsWith("role", "friend")))
	friend := labelled("role", "friend")
	pods := start(t,
		newPod(ns, "server", on("node1")), newPod(ns, "friend-node1", on("node1"), friend),
		newPod(ns, "friend-node2", on("node2"), friend), newPod(ns, "moved-0", on("node2"), friend), newPod(ns, "moved-1", on("node2"), friend),
		newPod(elsewhere, "stranger-node1", on("node1")), newPod(elsewhere, "stranger-node2", on("node2")),
	)
	server, friend1, friend2, moved, stranger1, stranger2 := pods[0], pods[1], pods[2], pods[3:5], pods[5], pods[6]
	to := func(from *corev1.Pod) []way { return waysToPod(from.Name, netnsOf(t, from), server) }
	routeTo(t, "cp", "node1", slices.Concat(podIPs(server), podIPs(stranger1)))
	outside := ways("cp", theCluster.HostNetNS("cp"), podIPs(server), 8080, 8081)
	host := ways("node2", theCluster.HostNetNS("node2"), podIPs(server), 8080, 8081)
	friends := slices.Concat(to(friend1), to(friend2))
	strangers := slices.Concat(to(stranger1), to(stranger2), outside, host)
	unfenced := slices.Concat(waysToPod("cp", theCluster.HostNetNS("cp"), stranger1), waysToPod("node2", theCluster.HostNetNS("node2"), stranger1), waysToPod("stranger-node2", netnsOf(t, stranger2), stranger1))
	expectWays(t, "friends alone to reach the server", slices.Concat(friends, to(moved[0]), to(moved[1]), unfenced), strangers)

	token := liarToken(t, "node2")
	bringBack := takeAgents(t, "node2")
	agent := as(t, token)
	say := func(pods ...v1alpha1.PodAddress) {
		t.Helper()
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			object := announcedOf(t, "node2")
			object.Pods = pods
			return agent.Update(context.Background(), object)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	free := freeAddresses(t, "node2")

	// What lies can do: a node has its pods' ranges, and may say whose their addresses are. With
	// one of these for its own it reaches what that pod may.
	t.Run("the node's own range", func(t *testing.T) {
		pose(t, "node2", "node1", server, free)
		expectWays(t, "the node not to reach the server by an address of its range", nil, host)
		say(lie(moved[0], free...))
		expectWays(t, "what node2 says of its own pods and range to count", host, slices.Concat(to(moved[0]), to(stranger2)))
	})
	other := func(pod *corev1.Pod, change func(*v1alpha1.PodAddress)) v1alpha1.PodAddress {
		l := lie(pod, podIPs(stranger2)...)
		change(&l)
		return l
	}
	for i, l := range []struct {
		what string
		lies []v1alpha1.PodAddress
	}{
		{"that a pod of node1 has an address of node2", []v1alpha1.PodAddress{lie(friend1, podIPs(stranger2)...)}},
		{"that a pod of node1 has another's address of node1", []v1alpha1.PodAddress{lie(friend1, podIPs(stranger1)...)}},
		{"that a pod of node2 has an address of node1", []v1alpha1.PodAddress{lie(friend2, podIPs(stranger1)...)}},
		{"that a pod of node2 has an address of each", []v1alpha1.PodAddress{lie(friend2, podIPs(stranger1)[0], podIPs(stranger2)[0])}},
		{"that a pod of node2 has an address in no range", []v1alpha1.PodAddress{lie(friend2, outsideIPs(t)...)}},
		{"that a pod of node2 has the node's own address", []v1alpha1.PodAddress{lie(friend2, nodeIPs(t, "node2")...)}},
		{"two things of one pod", []v1alpha1.PodAddress{lie(friend2, podIPs(stranger2)...), lie(friend2, podIPs(friend2)...)}},
		{"it of another pod's UID", []v1alpha1.PodAddress{other(friend2, func(l *v1alpha1.PodAddress) { l.UID = stranger2.UID })}},
		{"it of a pod whose status shows another address by now", []v1alpha1.PodAddress{other(friend2, func(l *v1alpha1.PodAddress) { l.Supersedes = nil })}},
	} {
		now, then := moved[(i+1)%2], moved[i%2]
		say(append(l.lies, lie(now, free...))...)
		expectWays(t, "node2 to say "+l.what, slices.Concat(friends, to(then)), slices.Concat(strangers, to(now)))
	}
	// The address of another pod of node2 is both pods' then, and may do what both may.
	say(lie(friend2, podIPs(stranger2)...), lie(moved[0], free...))
	expectWays(t, "node2 to say that a pod of its own has another's address", to(moved[1]), slices.Concat(strangers, to(moved[0]), to(friend2)))

	// Nor does it count what node2 says of a pod that is on neither node, even if it has the address.
	t.Run("a third node's pod", func(t *testing.T) {
		var ips []string
		for _, cidr := range paperNode(t, "third") {
			ips = append(ips, nthAddress(cidr, 7))
		}
		third, err := client.CoreV1().Pods(ns).Create(context.Background(), newPod(ns, "third", on("third"), friend), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			now := int64(0)
			if err := client.CoreV1().Pods(ns).Delete(context.Background(), third.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
				t.Error(err)
			}
		})
		pose(t, "node2", "node1", server, ips)
		routeTo(t, "node1", "node2", ips) // for the answers
		say(lie(third, ips...), lie(moved[1], free...))
		expectWays(t, "node2 to say where a pod of a third node is", slices.Concat(friends, to(moved[0])), slices.Concat(strangers, to(moved[1])))
		third.Status.PodIP = ips[0]
		for _, ip := range ips {
			third.Status.PodIPs = append(third.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		if _, err := client.CoreV1().Pods(ns).UpdateStatus(context.Background(), third, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		expectWays(t, "that pod's status to say where it is", host, to(moved[1]))
	})

	bringBack()
	expectAnnouncing(t)
	allFriends := slices.Concat(friends, to(moved[0]), to(moved[1]))
	expectWays(t, "the agent to say what is so", allFriends, strangers)
	lies := []v1alpha1.PodAddress{lie(friend2, podIPs(stranger2)...), lie(moved[0], free...)}
	say(lies...)
	check.Eventually(t, seenWithin, "the agent to put right what is said in its place", check.Holds(func() bool {
		return !reflect.DeepEqual(announcedOf(t, "node2").Pods, lies)
	}))
	expectWays(t, "the agent to say it again", allFriends, strangers)
	late := start(t, newPod(ns, "late", on("node2"), friend))[0]
	expectWays(t, "a new friend to reach the server as well", slices.Concat(allFriends, to(late)), strangers)
}

// pose has a node send to a pod of another node by addresses that are none of its own, one of each
// family, until the end of the test.
func pose(t *testing.T, node, other string, to *corev1.Pod, ips []string) {
	t.Helper()
	for _, ip := range ips {
		add := []string{"ip", "addr", "add", ip, "dev", "lo"}
		if netip.MustParseAddr(ip).Is6() {
			add = append(add, "nodad") // so that it can be sent from at once
		}
		run(t, node, add...)
		t.Cleanup(func() { run(t, node, "ip", "addr", "del", ip, "dev", "lo") })
		for _, target := range podIPs(to) {
			if family(netip.MustParseAddr(target)) == family(netip.MustParseAddr(ip)) {
				routeTo(t, node, other, []string{target}, "src", ip)
			}
		}
	}
}

// liarToken is the token of a pod on a node that has the agents' account, as kubelet has given it.
func liarToken(t *testing.T, node string) string {
	t.Helper()
	pod := newPod(agentNamespace, "liar", on(node))
	yes := true
	pod.Spec.ServiceAccountName, pod.Spec.AutomountServiceAccountToken = agentName, &yes
	t.Cleanup(func() {
		now := int64(0)
		if err := client.CoreV1().Pods(agentNamespace).Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Error(err)
		}
	})
	pod = start(t, pod)[0]
	process, err := cluster.PodProcess(string(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	target, err := os.Stat(filepath.Join(process, "ns", "net"))
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processesIn(target.Sys().(*syscall.Stat_t).Ino) {
		token, err := os.ReadFile(filepath.Join(process, "root/var/run/secrets/kubernetes.io/serviceaccount/token"))
		if err == nil { // the one that holds the pod's namespaces has none
			return strings.TrimSpace(string(token))
		}
	}
	t.Fatal("no process of the liar has a token")
	return ""
}

// takeAgents takes the agents from nodes, whose rules stay, until the function that it returns is
// called, or the end of the test.
func takeAgents(t *testing.T, nodes ...string) (bringBack func()) {
	t.Helper()
	label := func(change string) { kubectl(t, slices.Concat([]string{"label", "nodes"}, nodes, []string{change})...) }
	label("podfence.io/uninstall=true")
	bringBack = sync.OnceFunc(func() {
		label("podfence.io/uninstall-")
		for _, node := range nodes {
			check.Eventually(t, time.Minute, "the agent of "+node+" to be back", func() error {
				_, _, err := readyz(node)
				return err
			})
		}
		agentsReady(t)
	})
	t.Cleanup(bringBack)
	expectNoAgent(t, nodes...)
	return bringBack
}

// freeAddresses are addresses in a node's ranges, one of each, that are the last to be given to pods.
func freeAddresses(t *testing.T, node string) (ips []string) {
	t.Helper()
	object, err := client.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]bool{}
	for _, pod := range pods.Items {
		for _, ip := range podIPs(&pod) {
			taken[ip] = true
		}
	}
	for _, text := range object.Spec.PodCIDRs {
		ip := netip.MustParsePrefix(text).Addr().Next().Next() // The first ones are the node's.
		for taken[ip.String()] {
			ip = ip.Next()
		}
		ips = append(ips, ip.String())
	}
	return ips
}

// routeTo has a host reach addresses by way of a node, until the end of the test.
func routeTo(t *testing.T, host, node string, ips []string, options ...string) {
	t.Helper()
	for _, ip := range ips {
		for _, via := range nodeIPs(t, node) {
			if family(netip.MustParseAddr(ip)) == family(netip.MustParseAddr(via)) {
				run(t, host, append([]string{"ip", "route", "replace", ip, "via", via}, options...)...)
				t.Cleanup(func() { run(t, host, "ip", "route", "del", ip, "via", via) })
			}
		}
	}
}

// TestAnnouncementDelayed: while the API server does not take what an agent says of a new pod, the
// pod comes late by no more than five seconds; or, if the agents are told to require it, not at all
// until it does. Nothing that is denied passes meanwhile.
func TestAnnouncementDelayed(t *testing.T) {
	ns, open := newNamespace(t), newNamespace(t)
	friendsAndServers(t, ns)
	expectAnnouncing(t)
	others := start(t, newPod(ns, "server-there", on("node2"), labelled("app", "server")), newPod(open, "stranger", on("node2")))
	server, stranger := others[0], others[1]
	spray(t, stranger)
	spec := agentDaemonSet(t).Spec.Template.Spec
	for _, mode := range []string{"prefer", "require"} {
		t.Run(mode, func(t *testing.T) {
			if mode == "require" {
				args := append(slices.Clone(spec.Containers[0].Args), "--peers-first=require")
				changeAgents(t, func(s *corev1.PodSpec) { s.Containers[0].Args = args })
				agentsReady(t)
				expectAnnouncing(t)
			}
			first := start(t, newPod(ns, "friend-"+mode, on("node1"), labelled("app", "friend")))[0]
			expectWays(t, "the friend to reach the server", ways("friend", netnsOf(t, first), podIPs(server), 8080, 0), nil)
			hang := hangAnnouncements(t)
			late := newPod(ns, "server-"+mode, on("node1"), labelled("app", "server"))
			began := time.Now()
			if _, err := client.CoreV1().Pods(ns).Create(context.Background(), late, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			ready := func() bool {
				pod, err := client.CoreV1().Pods(ns).Get(context.Background(), late.Name, metav1.GetOptions{})
				return err == nil && isReady(pod)
			}
			if mode == "require" {
				for time.Since(began) < 15*time.Second {
					if ready() {
						t.Fatalf("the pod is Ready after %s, and must not start", time.Since(began))
					}
					time.Sleep(200 * time.Millisecond)
				}
				hang.end()
			}
			check.Eventually(t, seenWithin, "the late pod to be Ready", check.Holds(ready))
			took := time.Since(began)
			t.Logf("the pod is Ready after %s", took.Round(time.Millisecond))
			if mode == "prefer" && (took < 5*time.Second || took > 12*time.Second) {
				t.Errorf("the pod is Ready after %s: it should have waited for five seconds, and started then", took)
			}
			hang.end()
			pod, err := client.CoreV1().Pods(ns).Get(context.Background(), late.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if n := received(t, pod); n != 0 {
				t.Errorf("%s has received %d denied packets", pod.Name, n)
			}
			expectWays(t, "the friend to reach the late pod", ways("friend", netnsOf(t, first), podIPs(pod), 8080, 0), nil)
		})
	}
}

// hangs is a webhook that never answers.
type hangs struct{ end func() }

// hangAnnouncements has the API server ask, of all that is said of node1's pods, one who never
// answers, until the end of the test at the latest.
func hangAnnouncements(t *testing.T) *hangs {
	t.Helper()
	var listener net.Listener
	err := netns.InsidePath(theCluster.HostNetNS("cp"), func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		var open []net.Conn
		for {
			conn, err := listener.Accept()
			if err != nil {
				for _, conn := range open {
					conn.Close()
				}
				return
			}
			open = append(open, conn)
		}
	}()
	const name = "e2e-hangs"
	url, none, timeout, all := "https://"+listener.Addr().String(), admissionv1.SideEffectClassNone, int32(30), admissionv1.AllScopes
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err = hooks.Create(context.Background(), &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:         "hangs.podfence.io",
			ClientConfig: admissionv1.WebhookClientConfig{URL: &url},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{v1alpha1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"podaddresses"}, Scope: &all},
			}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "node1", Expression: "object.metadata.name == 'node1'"}},
			SideEffects:     &none, TimeoutSeconds: &timeout, AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := &hangs{sync.OnceFunc(func() {
		if err := hooks.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		listener.Close()
	})}
	t.Cleanup(h.end)
	own := ctrlclient.NewDryRunClient(as(t, agentToken(t, "node1")))
	check.Eventually(t, seenWithin, "the API server to ask one who never answers", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := own.Update(ctx, announcedOf(t, "node1")); ctx.Err() == nil {
			return fmt.Errorf("it has answered itself: %v", err)
		}
		return nil
	})
	return h
}
