//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
)

// What config/default installs.
const (
	agentNamespace = "podfence-system"
	agentName      = "podfence-agent" // of DaemonSet, ServiceAccount and ClusterRole
	agentUser      = "system:serviceaccount:" + agentNamespace + ":" + agentName
)

// TestPermissions: since the cluster's start no request of an agent was refused
// but the one by which it sees that lies are, and each permission of its role has
// been used, so none is missing and none too many. Some take an occasion:
//
//   - list is for API servers that don't send what there is at the start of a
//     watch (WatchList, on by default since Kubernetes 1.34): a client without
//     that feature falls back to it.
//   - PodAddresses are created when a node's first pod starts, and updated by the
//     next one.
//   - events are created when a policy cannot be enforced.
//   - ClusterNetworkPolicies are read when there is such a kind.
//   - Services are asked for when a denied packet has asked for one.
func TestPermissions(t *testing.T) {
	changeAgents(t, func(pod *corev1.PodSpec) {
		c := &pod.Containers[0]
		c.Env = append(c.Env, corev1.EnvVar{Name: "KUBE_FEATURE_WatchListClient", Value: "false"})
	})
	agentsReady(t)
	expectAnnouncing(t)
	namespace := newNamespace(t)
	first := start(t, newPod(namespace, "first", on("node1")))[0]
	start(t, newPod(namespace, "second", on("node1")))
	service := newService(t, namespace, "second", "second")
	apply(t, denyAll(namespace))
	expectWays(t, "the Service to be closed", nil, waysToService("first to the Service", netnsOf(t, first), service))
	storeBrokenPolicy(t, namespace)
	readClusterPolicies(t)
	check.Eventually(t, seenWithin, "an Event about a broken policy", func() error {
		events, err := client.CoreV1().Events(namespace).List(context.Background(), metav1.ListOptions{FieldSelector: "reason=NotEnforceable"})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})

	role, err := client.RbacV1().ClusterRoles().Get(context.Background(), agentName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	unused := map[string]bool{}
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					unused[fmt.Sprintf("%s %q %s", verb, group, resource)] = true
				}
			}
		}
	}
	if len(unused) == 0 {
		t.Fatal("the role grants nothing")
	}
	requests := audited(t)
	lies := 0
	for _, r := range requests {
		if r.isLie() {
			if lies++; !r.denied() {
				t.Errorf("the API server has taken a lie: %+v", r)
			}
			continue
		}
		if r.denied() {
			t.Errorf("denied: %s %s: code %d, %s", r.Verb, r.RequestURI, r.ResponseStatus.Code, r.Annotations[authorization])
			continue
		}
		delete(unused, fmt.Sprintf("%s %q %s", r.Verb, r.ObjectRef.APIGroup, r.ObjectRef.Resource))
	}
	if lies < theCluster.Nodes {
		t.Errorf("%d lies were tried, on %d nodes", lies, theCluster.Nodes)
	}
	for permission := range unused {
		t.Errorf("granted, and not used by any of %d requests: %s", len(requests), permission)
	}
}

// readClusterPolicies installs the kind ClusterNetworkPolicy for as long as the test lasts, and waits
// until agents have listed policies of it and have watched them.
func readClusterPolicies(t *testing.T) {
	t.Helper()
	withoutKind(t)
	installKind(t, channel(t, "standard"), "v1beta1")
	check.Eventually(t, seenWithin, "agents to list ClusterNetworkPolicies and to watch them", func() error {
		asked := map[string]bool{}
		for _, r := range audited(t) {
			if r.ObjectRef.Resource == "clusternetworkpolicies" {
				asked[r.Verb] = true
			}
		}
		if !asked["list"] || !asked["watch"] {
			return fmt.Errorf("what they have asked for: %v", asked)
		}
		return nil
	})
}

// request is what the audit log has of one.
type request struct {
	Verb, RequestURI string
	UserAgent        string
	User             struct{ Username string }
	ObjectRef        struct{ APIGroup, Resource, Namespace, Name string }
	ResponseStatus   metav1.Status
	Annotations      map[string]string
}

// isLie tells whether a request is the one by which an agent sees that the API server refuses what is
// said of the pods of no node.
func (r request) isLie() bool {
	return r.Verb == "create" && r.ObjectRef.Resource == "podaddresses" && r.ObjectRef.Name == "podfence-says-what-is-not-so"
}

const authorization = "authorization.k8s.io/decision"

// denied tells whether a request was refused for who has made it. In a namespace
// that is being deleted nobody can create an Event.
func (r request) denied() bool {
	if apierrors.HasStatusCause(&apierrors.StatusError{ErrStatus: r.ResponseStatus}, corev1.NamespaceTerminatingCause) {
		return false
	}
	return r.ResponseStatus.Code == http.StatusUnauthorized || r.ResponseStatus.Code == http.StatusForbidden || r.Annotations[authorization] != "allow"
}

// audited are the agents' requests since the cluster's start.
func audited(t *testing.T) (all []request) {
	t.Helper()
	file, err := os.Open(theCluster.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // at the end, where a line may be half written
			return all
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v: %s", file.Name(), err, line)
		}
		if r.User.Username == agentUser && r.UserAgent != testAgent {
			all = append(all, r)
		}
	}
}

// storeBrokenPolicy puts a policy that cannot be enforced where the API server
// keeps its objects: it refuses such a policy, but serves what an older version
// of it has stored.
func storeBrokenPolicy(t *testing.T, namespace string) {
	t.Helper()
	broken := networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "broken", UID: uuid.NewUUID(), Generation: 1, CreationTimestamp: metav1.Now()},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "everyone"}}}}},
		},
	}
	object, err := json.Marshal(broken)
	if err != nil {
		t.Fatal(err)
	}
	put, err := json.Marshal(map[string]string{
		"key":   base64.StdEncoding.EncodeToString([]byte("/registry/networkpolicies/" + namespace + "/" + broken.Name)),
		"value": base64.StdEncoding.EncodeToString(object),
	})
	if err != nil {
		t.Fatal(err)
	}
	etcd := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.InsidePath(theCluster.HostNetNS("cp"), func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}}
	response, err := etcd.Post("http://127.0.0.1:2379/v3/kv/put", "application/json", bytes.NewReader(put))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("etcd: %s", response.Status)
	}
}

// startAgentCopy starts a pod that is an agent like the others, and no danger to
// them: it has a network namespace of its own, and fences a Node that is no more than
// an object.
func startAgentCopy(t *testing.T, name string, env ...corev1.EnvVar) *corev1.Pod {
	t.Helper()
	return start(t, agentCopy(t, name, env...))[0]
}

func agentCopy(t *testing.T, name string, env ...corev1.EnvVar) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		// Not the DaemonSet's labels, or it would take the pod for its own.
		ObjectMeta: metav1.ObjectMeta{Namespace: agentNamespace, Name: name, Labels: map[string]string{"e2e": name}},
		Spec:       *agentDaemonSet(t).Spec.Template.Spec.DeepCopy(),
	}
	pod.Spec.HostNetwork, pod.Spec.Volumes = false, nil
	c := &pod.Spec.Containers[0]
	c.Args, c.VolumeMounts, c.LivenessProbe = []string{"agent", "--cni=none", "--health-address=:9479"}, nil, nil
	c.ReadinessProbe.HTTPGet.Host = ""
	c.Env = append([]corev1.EnvVar{{Name: "PODFENCE_NODE_NAME", Value: name}}, env...)
	// The label keeps the agents' DaemonSet off it.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"podfence.io/uninstall": "true"}}}
	if _, err := client.CoreV1().Nodes().Create(context.Background(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now := int64(0)
		if err := client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := client.CoreV1().Pods(agentNamespace).Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Error(err)
		}
		check.Eventually(t, seenWithin, "pod "+name+" to be gone", func() error {
			pods, err := client.CoreV1().Pods(agentNamespace).List(context.Background(), metav1.ListOptions{LabelSelector: "e2e=" + name})
			if err == nil && len(pods.Items) > 0 {
				err = fmt.Errorf("it is there")
			}
			return err
		})
	})
	return pod
}

func agentDaemonSet(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	agent, err := client.AppsV1().DaemonSets(agentNamespace).Get(context.Background(), agentName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

// TestCapabilities: the agents' processes hold NET_ADMIN and no more, can get no
// more, and can write nowhere but where the DaemonSet says.
func TestCapabilities(t *testing.T) {
	daemonSet := agentDaemonSet(t)
	container := daemonSet.Spec.Template.Spec.Containers[0]
	if c := container.SecurityContext.Capabilities; !slices.Equal(c.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(c.Add, []corev1.Capability{"NET_ADMIN"}) {
		t.Errorf("the DaemonSet drops capabilities %s and adds %s", c.Drop, c.Add)
	}
	netAdmin := fmt.Sprintf("%016x", uint64(1)<<unix.CAP_NET_ADMIN)
	none := fmt.Sprintf("%016x", 0)
	want := map[string]string{
		"CapEff": netAdmin, "CapPrm": netAdmin, "CapBnd": netAdmin, "CapInh": none, "CapAmb": none,
		"NoNewPrivs": "1",
		"Seccomp":    "2", // a filter
	}
	var writable []string
	for _, m := range container.VolumeMounts {
		if !m.ReadOnly {
			writable = append(writable, m.MountPath)
		}
	}
	slices.Sort(writable)

	for node, pid := range agentProcesses(t) {
		status := processStatus(t, pid)
		for key, value := range want {
			if status[key] != value {
				t.Errorf("agent on %s: %s is %q, want %s", node, key, status[key], value)
			}
		}
		root, others := writableMounts(t, pid)
		if root {
			t.Errorf("agent on %s: its root file system is writable", node)
		}
		if !slices.Equal(others, writable) {
			t.Errorf("agent on %s: can write to %s, want %s", node, others, writable)
		}
	}
}

// agentProcesses are the agents' process ids on this machine, by node.
func agentProcesses(t *testing.T) map[string]string {
	t.Helper()
	pods, err := client.CoreV1().Pods(agentNamespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"})
	if err != nil || len(pods.Items) != theCluster.Nodes {
		t.Fatalf("%d agents on %d nodes: %v", len(pods.Items), theCluster.Nodes, err)
	}
	found := map[string]string{}
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		cgroup, _ := os.ReadFile(file) // the process may have ended
		program, _ := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
		for _, pod := range pods.Items {
			// The pod's other process holds its namespaces.
			if bytes.Contains(cgroup, []byte("pod"+pod.UID)) && program == "/podfence" {
				found[pod.Spec.NodeName] = filepath.Base(filepath.Dir(file))
			}
		}
	}
	if len(found) != len(pods.Items) {
		t.Fatalf("processes of %d agents: %v", len(pods.Items), found)
	}
	return found
}

// processStatus is /proc/PID/status.
func processStatus(t *testing.T, pid string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	return status
}

// runtimeMounts are writable in every container: kernel interfaces and files of
// its own that container runtime and kubelet give it.
var runtimeMounts = []string{
	"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/termination-log", "/etc/hosts",
	"/sys/fs/cgroup", // with cgroup v1: an empty tmpfs, that holds the mounts of the hierarchies
}

// writableMounts are the mount points that a process can write to, but for
// runtimeMounts, sorted, and whether its root is one.
func writableMounts(t *testing.T, pid string) (root bool, others []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		// ID parent device root point options... - type source superOptions
		fields := strings.Fields(line)
		end := slices.Index(fields, "-")
		if end < 6 || len(fields) < end+4 {
			t.Fatalf("mountinfo: %s", line)
		}
		from, point, options, super := fields[3], fields[4], fields[5], fields[end+3]
		switch {
		case !slices.Contains(strings.Split(options, ","), "rw"), !slices.Contains(strings.Split(super, ","), "rw"):
		case point == "/":
			root = true
		case from == "/null": // /dev/null over a file of /proc, to hide it
		case !slices.Contains(runtimeMounts, point):
			others = append(others, point)
		}
	}
	slices.Sort(others)
	return root, others
}

// TestNeedsNetAdmin: without its one capability the agent never turns ready, and
// says why; with it the same pod does.
//
// That NET_ADMIN alone is enough, all other tests show: the agents that they
// test have nothing else.
func TestNeedsNetAdmin(t *testing.T) {
	without := agentCopy(t, "agent-without-net-admin")
	without.Spec.Containers[0].SecurityContext.Capabilities.Add = nil
	if _, err := client.CoreV1().Pods(agentNamespace).Create(context.Background(), without, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	startAgentCopy(t, "agent-with-net-admin")
	const why = "operation not permitted"
	check.Eventually(t, seenWithin, "the agent without NET_ADMIN to say what it lacks", func() error {
		log, err := client.CoreV1().Pods(agentNamespace).GetLogs(without.Name, &corev1.PodLogOptions{}).DoRaw(context.Background())
		if err == nil && !bytes.Contains(log, []byte(why)) {
			err = fmt.Errorf("its log has no %q: %s", why, log)
		}
		return err
	})
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		pod, err := client.CoreV1().Pods(agentNamespace).Get(context.Background(), without.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if isReady(pod) {
			t.Fatal("the agent without NET_ADMIN is ready")
		}
	}
}
