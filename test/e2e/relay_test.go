//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
)

// TestRelay: Hubble's own relay, deployed as docs/HUBBLE.md says, finds the agents of both nodes by one of them,
// and Hubble's own CLI reads by it of a denial on each node, in each family, with both pods and the policy. So
// does a client that asks as Hubble UI does. New certificates, of another CA, are taken up by running
// programs, and the old ones let nobody in any more.
func TestRelay(t *testing.T) {
	cli := hubbleProgram(t, "hubble")
	loadRelay(t)
	first := newHubbleCA(t)
	first.putSecrets(t)
	kubectl(t, "-n", agentNamespace, "patch", "daemonset", agentName, "--patch-file", "../../config/hubble/agents/patch.yaml")
	t.Cleanup(func() {
		kubectl(t, "-n", agentNamespace, "rollout", "undo", "daemonset/"+agentName)
		agentsReady(t)
	})
	kubectl(t, "apply", "-k", "../../config/hubble")
	t.Cleanup(func() { kubectl(t, "delete", "-k", "../../config/hubble") })
	agentsReady(t)
	kubectl(t, "-n", agentNamespace, "rollout", "status", "--timeout=3m", "deployment/hubble-relay")
	pods := start(t, acrossNodes(newNamespace(t))...)
	servers, strangers, ns := pods[:2], pods[2:], pods[0].Namespace
	policy := apply(t, ingressFrom(ns, "server", podsWith("app", "friend")))

	r := &relay{cli: cli, server: portForward(t, "service/hubble-relay", 80), policy: policy.Name}
	r.expectNodes(t)
	for i, stranger := range strangers {
		expectWays(t, "the servers to be closed", nil, ways(stranger.Name+" to "+servers[1-i].Name, netnsOf(t, stranger), podIPs(servers[1-i]), 8080, 0))
	}
	r.expectDenials(t, servers, strangers)
	t.Run("as Hubble UI asks", func(t *testing.T) { r.asUI(t, servers, strangers) })

	before := relayPod(t)
	second := newHubbleCA(t)
	second.putSecrets(t)
	for _, node := range bothNodes {
		check.Eventually(t, 4*time.Minute, "the agent of "+node+" to have the new certificates", func() error { return second.connect(node) })
		if err := first.connect(node); err == nil {
			t.Errorf("the agent of %s lets a client of the old CA in", node)
		}
	}
	// The connections of before stay open. New agents have the relay make new ones, by its new certificates.
	kubectl(t, "-n", agentNamespace, "delete", "pods", "-l", "app.kubernetes.io/component=agent")
	agentsReady(t)
	r.expectNodes(t)
	for i, stranger := range strangers {
		expectWays(t, "the servers to be closed", nil, ways(stranger.Name+" to "+servers[1-i].Name, netnsOf(t, stranger), podIPs(servers[1-i]), 8080, 0))
	}
	r.expectDenials(t, servers, strangers)
	if after := relayPod(t); after.UID != before.UID || after.Status.ContainerStatuses[0].RestartCount != before.Status.ContainerStatuses[0].RestartCount {
		t.Errorf("the relay was replaced or restarted: %s, then %s, %+v", before.Name, after.Name, after.Status.ContainerStatuses)
	}
}

// acrossNodes are a server and a stranger on each node, the servers first.
func acrossNodes(ns string) (pods []*corev1.Pod) {
	for _, app := range []string{"server", "stranger"} {
		for _, node := range bothNodes {
			pods = append(pods, newPod(ns, app+"-"+node, on(node), labelled("app", app)))
		}
	}
	return pods
}

// relay is hubble-relay, as Hubble's CLI reaches it, and the policy whose denials it is asked about.
type relay struct{ cli, server, policy string }

// ask calls the CLI and returns what it prints.
func (r *relay) ask(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := theCluster.BesideKubectl(ctx, r.cli, append(args, "--server", r.server)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("hubble %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// expectNodes waits until the relay is connected to both agents, and says so.
func (r *relay) expectNodes(t *testing.T) {
	t.Helper()
	check.Eventually(t, 2*time.Minute, "the relay to be connected to both agents", func() error {
		status, err := r.ask(t, "status")
		if err == nil && !strings.Contains(status, fmt.Sprintf("Connected Nodes: %d/%[1]d", len(bothNodes))) {
			err = fmt.Errorf("hubble status:\n%s", status)
		}
		if err != nil {
			return err
		}
		nodes, err := r.ask(t, "list", "nodes")
		for _, node := range bothNodes {
			if err == nil && !regexp.MustCompile(`(?m)^`+node+` +Connected `).MatchString(nodes) {
				err = fmt.Errorf("hubble list nodes does not say that %s is connected:\n%s", node, nodes)
			}
		}
		return err
	})
}

// expectDenials waits until the CLI tells by the relay of a denial of each stranger on the other's node, in each
// family, in text and in JSON.
func (r *relay) expectDenials(t *testing.T, servers, strangers []*corev1.Pod) {
	t.Helper()
	ns := servers[0].Namespace
	check.Eventually(t, 30*time.Second, "the relay to tell of a denial on each node in each family", func() error {
		text, err := r.ask(t, "observe", "--verdict", "DROPPED", "--print-policy-names", "--namespace", ns, "--last", "100")
		if err != nil {
			return err
		}
		lines, err := r.ask(t, "observe", "--verdict", "DROPPED", "--type", "drop", "--namespace", ns, "--last", "100", "-o", "json")
		if err != nil {
			return err
		}
		for i, stranger := range strangers {
			server := servers[1-i]
			line := fmt.Sprintf(`%s/%s:\d+ \(ID:\d+\) -> %s/%s:8080 \(ID:\d+\) policy-verdict:none INGRESS DENIED BY %s \(NetworkPolicy\) `, ns, stranger.Name, ns, server.Name, r.policy)
			if !regexp.MustCompile(line).MatchString(text) {
				return fmt.Errorf("hubble observe has no line %q:\n%s", line, text)
			}
			for _, ip := range podIPs(server) {
				if err := toldIn(lines, server.Spec.NodeName, stranger.Name, ip); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// toldIn looks for a denied packet that a node has seen among lines of JSON.
func toldIn(lines, node, from, to string) error {
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		var told struct {
			Flow struct {
				NodeName string `json:"node_name"`
				IP       struct{ Destination string }
				Source   struct {
					Pod string `json:"pod_name"`
				}
				Reason string `json:"drop_reason_desc"`
			}
		}
		if err := json.Unmarshal([]byte(line), &told); err != nil {
			return fmt.Errorf("hubble observe -o json prints %q: %w", line, err)
		}
		if f := told.Flow; f.NodeName == node && f.Source.Pod == from && f.IP.Destination == to && f.Reason == "POLICY_DENIED" {
			return nil
		}
	}
	return fmt.Errorf("hubble observe -o json does not tell that %s has denied %s to %s:\n%s", node, from, to, lines)
}

// asUI asks the relay what the backend of Hubble UI asks for, when a namespace is chosen in the browser, and
// expects of each answer what the backend needs to draw it.
func (r *relay) asUI(t *testing.T, servers, strangers []*corev1.Pod) {
	ns := servers[0].Namespace
	conn, err := grpc.NewClient("passthrough:///"+r.server, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dialFrom(ctx, "cp", address) }))
	check.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ui := observerpb.NewObserverClient(conn)
	status := check.Value(ui.ServerStatus(ctx, &observerpb.ServerStatusRequest{}))(t)
	if n := status.GetNumConnectedNodes().GetValue(); int(n) != len(bothNodes) || status.GetNumFlows() == 0 || status.GetMaxFlows() == 0 {
		t.Errorf("the relay's status: %v", status)
	}
	nodes := check.Value(ui.GetNodes(ctx, &observerpb.GetNodesRequest{}))(t)
	if len(nodes.GetNodes()) != len(bothNodes) {
		t.Errorf("the relay's nodes: %v", nodes)
	}
	stream := check.Value(ui.GetFlows(ctx, &observerpb.GetFlowsRequest{
		Number: 10000, Follow: true,
		Whitelist: []*flowpb.FlowFilter{{SourcePod: []string{ns + "/"}, Reply: []bool{false}}, {DestinationPod: []string{ns + "/"}, Reply: []bool{false}}},
		Blacklist: []*flowpb.FlowFilter{
			{SourceLabel: []string{"reserved:unknown", "reserved:host", "k8s:k8s-app=kube-dns", "reserved:remote-node", "k8s:app=prometheus"}},
			{DestinationLabel: []string{"reserved:unknown", "reserved:host", "reserved:remote-node", "k8s:app=prometheus"}},
			{DestinationLabel: []string{"k8s:k8s-app=kube-dns"}, DestinationPort: []string{"53"}},
			{SourceFqdn: []string{"*.cluster.local*"}}, {DestinationFqdn: []string{"*.cluster.local*"}},
		},
	}))(t)
	drawn := map[string]bool{} // by pods, IP version and verdict
	for want := len(strangers) * len(podIPs(servers[0])); len(drawn) < want; {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("%d of %d are told, %v: %v", len(drawn), want, drawn, err)
		}
		f := m.GetFlow()
		if f == nil { // such as of the relay's nodes
			continue
		}
		if f.GetL4() == nil || f.GetSource().GetIdentity() == 0 || f.GetDestination().GetIdentity() == 0 || len(f.GetSource().GetLabels()) == 0 || f.GetTime() == nil || f.GetVerdict() == flowpb.Verdict_VERDICT_UNKNOWN {
			t.Errorf("the UI cannot draw %v", f)
		}
		if f.GetVerdict() == flowpb.Verdict_DROPPED {
			drawn[fmt.Sprint(f.GetSource().GetPodName(), f.GetDestination().GetPodName(), f.GetIP().GetIpVersion())] = true
		}
	}
}

// dialFrom connects to an address from a host of the cluster.
func dialFrom(ctx context.Context, host, address string) (conn net.Conn, err error) {
	err = netns.InsidePath(theCluster.HostNetNS(host), func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// relayPod is the pod of hubble-relay.
func relayPod(t *testing.T) *corev1.Pod {
	t.Helper()
	pods := check.Value(client.CoreV1().Pods(agentNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=hubble-relay"}))(t)
	if len(pods.Items) != 1 || len(pods.Items[0].Status.ContainerStatuses) != 1 {
		t.Fatalf("%d pods are the relay", len(pods.Items))
	}
	return &pods.Items[0]
}

// hubbleProgram builds one of Hubble's own programs, hubble or hubble-relay, of the version that the agents'
// API is of, and returns its path.
func hubbleProgram(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	build := exec.CommandContext(t.Context(), "go", "-C", "../hubble/stock", "build", "-trimpath", "-o", path, "github.com/cilium/cilium/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return path
}

// loadRelay makes an image of Hubble's own relay, by the name that config/hubble has, and gives it to the nodes.
func loadRelay(t *testing.T) {
	t.Helper()
	text := check.Value(os.ReadFile("../../config/hubble/relay.yaml"))(t)
	image := regexp.MustCompile(`image: (\S*/hubble-relay:\S+)`).FindSubmatch(text)
	if image == nil {
		t.Fatal("config/hubble/relay.yaml names no image of hubble-relay")
	}
	name, folder := string(image[1]), filepath.Dir(hubbleProgram(t, "hubble-relay"))
	archive := filepath.Join(t.TempDir(), "relay.tar")
	for _, args := range [][]string{
		{"build", "--quiet", "--isolation", "chroot", "--target", "hubble-relay", "--tag", name, "--file", "../cluster/images/Dockerfile", folder},
		{"push", "--quiet", name, "docker-archive:" + archive + ":" + name},
	} {
		out, err := exec.CommandContext(t.Context(), "buildah", append([]string{"--storage-driver", "vfs"}, args...)...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal("the image of hubble-relay needs buildah: make cluster-up installs it, or names it")
		} else if err != nil {
			t.Fatalf("buildah %s: %v\n%s", args[0], err, out)
		}
	}
	check.NoError(t, theCluster.LoadImage(t.Context(), archive))
}
