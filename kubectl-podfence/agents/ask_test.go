package agents_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	constants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	api "github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/kubectl-podfence/agents"
)

// answers plays an agent.
func answers(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case api.StatusPath:
		fmt.Fprint(w, `{"agentVersion":"v1","node":"node-1","ready":true,"pods":{"fenced":3},"something":"newer"}`)
	case "/v1/echo":
		text, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"method":%q,"body":%q,"host":%q}`, r.Method, text, r.Host)
	case "/v1/broken":
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "it starts")
		fmt.Fprintln(w, "still")
	case "/v1/busy":
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"apiVersion":"agent.podfence.io/v1","kind":"Failure","reason":"TooManyRequests","message":"too many ask at once"}`)
	case "/v1/nonsense":
		fmt.Fprint(w, "<html>")
	case "/v1/endless":
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	case "/v1/lines":
		fmt.Fprint(w, "one\n\ntwo\n")
	case "/v1/ticks":
		for range 6 {
			fmt.Fprintln(w, "tick")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	case "/v1/stalls":
		fmt.Fprintln(w, "one")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case "/v1/slow":
		<-r.Context().Done()
	default:
		http.NotFound(w, r)
	}
}

// kubelet plays an API server and the node behind it, which forwards to an agent.
type kubelet struct {
	t         *testing.T
	agent     string // where it answers
	websocket bool
	port      string // empty: agents' usual one
	// refuses is what the node says in place of forwarding.
	refuses string
	calls   atomic.Int32
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.calls.Add(1)
	if r.URL.Path != "/api/v1/namespaces/podfence-system/pods/agent-1/portforward" {
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods \"agent-1\" is forbidden","reason":"Forbidden","code":403}`, http.StatusForbidden)
		return
	}
	streams := make(chan httpstream.Stream, 2)
	queue := func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	}
	var conn httpstream.Connection
	if websocket.IsWebSocketUpgrade(r) {
		if !k.websocket {
			http.Error(w, "no websockets here", http.StatusBadRequest)
			return
		}
		upgrader := websocket.Upgrader{Subprotocols: []string{constants.WebsocketsSPDYTunnelingPortForwardV1}}
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			k.t.Error(err)
			return
		}
		if conn, err = spdy.NewServerConnection(portforward.NewTunnelingConnection("server", ws), queue); err != nil {
			k.t.Error(err)
			return
		}
	} else {
		if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
			k.t.Error(err)
			return
		}
		conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, queue)
	}
	defer conn.Close()
	k.forward(streams, conn.CloseChan())
	<-conn.CloseChan()
}

// forward copies between a pair of streams and the agent.
func (k *kubelet) forward(streams chan httpstream.Stream, closed <-chan bool) {
	failures, data := <-streams, <-streams
	if failures.Headers().Get(corev1.StreamType) != corev1.StreamTypeError || data.Headers().Get(corev1.StreamType) != corev1.StreamTypeData || data.Headers().Get(corev1.PortHeader) != cmp.Or(k.port, "9477") {
		k.t.Errorf("streams: %v, %v", failures.Headers(), data.Headers())
	}
	defer failures.Close()
	defer data.Close()
	if k.refuses != "" {
		fmt.Fprint(failures, k.refuses)
		return
	}
	conn, err := net.Dial("tcp", k.agent)
	if err != nil {
		fmt.Fprint(failures, err)
		return
	}
	go func() {
		<-closed
		conn.Close()
	}()
	go io.Copy(conn, data)
	io.Copy(data, bufio.NewReader(conn))
}

// newAgent starts an agent, and a kubelet that forwards to it.
func newAgent(t *testing.T, change func(*kubelet)) (*agents.Agent, *kubelet) {
	t.Helper()
	agent := httptest.NewServer(http.HandlerFunc(answers))
	t.Cleanup(agent.Close)
	k := &kubelet{t: t, agent: strings.TrimPrefix(agent.URL, "http://"), websocket: true}
	change(k)
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	client, err := agents.New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return client.Agent(podOf("podfence-system", "agent-1")), k
}

func podOf(namespace, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// TestAsk: an agent is asked the same way by WebSocket, by SPDY where the API server takes no WebSockets, and
// by its address.
func TestAsk(t *testing.T) {
	byWebsocket, counted := newAgent(t, func(*kubelet) {})
	bySPDY, fallenBack := newAgent(t, func(k *kubelet) { k.websocket = false })
	direct := httptest.NewServer(http.HandlerFunc(answers))
	defer direct.Close()
	byAddress, err := agents.At(strings.TrimPrefix(direct.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for name, agent := range map[string]*agents.Agent{"WebSocket": byWebsocket, "SPDY": bySPDY, "address": byAddress} {
		t.Run(name, func(t *testing.T) {
			asks(t, agent)
			streams(t, agent)
		})
	}
	if counted.calls.Load() != fallenBack.calls.Load()/2 {
		t.Errorf("%d calls by WebSocket, %d where SPDY was tried behind it", counted.calls.Load(), fallenBack.calls.Load())
	}
}

func asks(t *testing.T, agent *agents.Agent) {
	var status api.Status
	if err := agent.Ask(t.Context(), http.MethodGet, api.StatusPath, nil, &status); err != nil || status.Node != "node-1" || !status.Ready || status.Pods.Fenced != 3 {
		t.Errorf("status: %v, %+v", err, status)
	}
	var echo struct{ Method, Body, Host string }
	question := map[string]string{"what": strings.Repeat("x", 100_000)}
	want, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Ask(t.Context(), http.MethodPost, "/v1/echo", question, &echo); err != nil || echo.Method != "POST" || echo.Body != string(want) || echo.Host != "127.0.0.1:9477" {
		t.Errorf("echo: %v, method %s, host %s, %d octets", err, echo.Method, echo.Host, len(echo.Body))
	}
	for path, says := range map[string]string{
		"/v1/broken":   "it answers 503 Service Unavailable: it starts",
		"/v1/nonsense": "not what this version of the plugin understands",
		"/v1/endless":  "more than 32 MiB",
		"/v1/none":     "it is of an older version than this plugin",
	} {
		err := agent.Ask(t.Context(), http.MethodGet, path, nil, &echo)
		if err == nil || !strings.HasSuffix(err.Error(), says) && !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "asking agent "+agent.Name+" for "+path) || strings.Contains(err.Error(), "still") {
			t.Errorf("%s: %v", path, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := agent.Ask(ctx, http.MethodGet, "/v1/busy", nil, &echo); err == nil || !strings.Contains(err.Error(), "it answers 429 Too Many Requests: too many ask at once") {
		t.Errorf("an agent that stays busy: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if err := agent.Ask(ctx, http.MethodGet, "/v1/slow", nil, &echo); err == nil || !strings.Contains(err.Error(), "deadline exceeded") || time.Since(begun) > 5*time.Second {
		t.Errorf("an agent that is silent: %v, after %s", err, time.Since(begun))
	}
}

// streams: lines are read as they come, until the agent has sent all, or says nothing for too long.
func streams(t *testing.T, agent *agents.Agent) {
	for path, c := range map[string]struct {
		lines string
		says  string // in the error; empty: there is none
	}{
		"/v1/lines":   {"one||two", ""},
		"/v1/ticks":   {"tick|tick|tick|tick|tick|tick", ""},
		"/v1/stalls":  {"one", "it has said nothing for 300ms"},
		"/v1/slow":    {"", "no answer within 2s"},
		"/v1/broken":  {"", "it answers 503 Service Unavailable: it starts"},
		"/v1/busy":    {"", "too many ask at once"},
		"/v1/none":    {"", "older version than this plugin"},
		"/v1/endless": {"", "a line of more than 4096 KiB"},
	} {
		opened := false
		var lines []string
		err := agent.Stream(t.Context(), path, agents.Stream{
			Opening: 2 * time.Second, Silence: 300 * time.Millisecond,
			Opened: func(at time.Time) { opened = time.Since(at) < time.Minute },
			Line: func(line []byte) error {
				lines = append(lines, string(line))
				return nil
			},
		})
		if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "asking agent "+agent.Name+" for "+path)) {
			t.Errorf("%s: %v", path, err)
		}
		if got := strings.Join(lines, "|"); got != c.lines || opened != (c.lines != "" || path == "/v1/endless") {
			t.Errorf("%s: opened %t, %q", path, opened, got)
		}
	}
	stop := errors.New("enough")
	if err := agent.Stream(t.Context(), "/v1/lines", agents.Stream{Opening: time.Second, Silence: time.Second, Opened: func(time.Time) {}, Line: func([]byte) error { return stop }}); !errors.Is(err, stop) {
		t.Errorf("a reader that has enough: %v", err)
	}
}

// TestBusy: an agent of which too many ask is asked again until it answers.
func TestBusy(t *testing.T) {
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) < 3 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		answers(w, r)
	}))
	defer server.Close()
	agent, err := agents.At(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	var status api.Status
	if err := agent.Ask(t.Context(), http.MethodGet, api.StatusPath, nil, &status); err != nil || status.Node != "node-1" || calls.Load() != 3 {
		t.Errorf("%v, %+v after %d calls", err, status, calls.Load())
	}
}

// TestPods: pods that only have an agent's labels are none, and agents in two namespaces are an error.
func TestPods(t *testing.T) {
	pod := func(namespace string, hostNetwork bool) map[string]any {
		return map[string]any{
			"metadata": map[string]any{"namespace": namespace, "name": "agent", "labels": map[string]string{"app.kubernetes.io/name": "podfence", "app.kubernetes.io/component": "agent"}},
			"spec":     map[string]any{"nodeName": "node-1", "hostNetwork": hostNetwork}, "status": map[string]any{"phase": "Running"},
		}
	}
	for name, test := range map[string]struct {
		pods []map[string]any
		says string
	}{
		"a tenant's":     {[]map[string]any{pod("a-tenant", false), pod("podfence-system", true)}, ""},
		"two namespaces": {[]map[string]any{pod("a-tenant", true), pod("podfence-system", true)}, "there are agents in namespace a-tenant and in podfence-system: name the one whose agents are meant by --agents-in"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"kind": "PodList", "apiVersion": "v1", "items": test.pods})
		}))
		defer server.Close()
		client, err := agents.New(&rest.Config{Host: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		byNode, err := client.Pods(t.Context(), "")
		if test.says == "" && (err != nil || len(byNode) != 1 || byNode["node-1"].Namespace != "podfence-system") || test.says != "" && (err == nil || err.Error() != test.says) {
			t.Errorf("%s: %v, %v", name, byNode, err)
		}
	}
}

// TestNoAnswer: what the API server or the node says of a failure is in the error.
func TestNoAnswer(t *testing.T) {
	for refuses, says := range map[string]string{
		"error forwarding port 9477 to pod x: dial tcp4 127.0.0.1:9477: connect: connection refused": "nobody answers on port 9477",
		"container runtime is down": "container runtime is down",
	} {
		agent, _ := newAgent(t, func(k *kubelet) { k.refuses = refuses })
		if err := agent.Ask(t.Context(), http.MethodGet, api.StatusPath, nil, &api.Status{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", refuses, err)
		}
	}
	server := httptest.NewServer(&kubelet{t: t})
	defer server.Close()
	client, err := agents.New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Agent(podOf("elsewhere", "agent-1")).Ask(t.Context(), http.MethodGet, api.StatusPath, nil, &api.Status{}); err == nil || !strings.Contains(err.Error(), `pods "agent-1" is forbidden`) {
		t.Errorf("a port-forward that is forbidden: %v", err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if client, err = agents.New(&rest.Config{Host: "http://" + silent.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if err := client.Agent(podOf("podfence-system", "agent-1")).Ask(ctx, http.MethodGet, api.StatusPath, nil, &api.Status{}); err == nil || !strings.Contains(err.Error(), "deadline exceeded") || time.Since(begun) > 5*time.Second {
		t.Errorf("an API server that is silent: %v, after %s", err, time.Since(begun))
	}
}

// TestOtherPort: an agent is asked where its --query-address says that it answers.
func TestOtherPort(t *testing.T) {
	for _, args := range [][]string{{"--query-address=127.0.0.1:1234"}, {"--query-address", "[::1]:1234"}} {
		_, k := newAgent(t, func(k *kubelet) { k.port = "1234" })
		server := httptest.NewServer(k)
		defer server.Close()
		client, err := agents.New(&rest.Config{Host: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		pod := podOf("podfence-system", "agent-1")
		pod.Spec.Containers = []corev1.Container{{Args: args}}
		if err := client.Agent(pod).Ask(t.Context(), http.MethodGet, api.StatusPath, nil, &api.Status{}); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestAt(t *testing.T) {
	for address, want := range map[string]string{"127.0.0.1": "127.0.0.1:9477", "[::1]:80": "[::1]:80", "::1": "[::1]:9477", "node-1:1234": "node-1:1234"} {
		if agent, err := agents.At(address); err != nil || agent.Name != want {
			t.Errorf("%s: %v, %v", address, agent, err)
		}
	}
	for _, address := range []string{"", ":80", "a:0", "a:70000", "http://a", "a b:80", "a:http"} {
		if agent, err := agents.At(address); err == nil {
			t.Errorf("%q: %s", address, agent.Name)
		}
	}
}

// TestAllowToNode: only if all agents let pods reach their node may a verdict say so.
func TestAllowToNode(t *testing.T) {
	agent := func(args ...string) *corev1.Pod {
		pod := podOf("podfence-system", "agent")
		pod.Labels = map[string]string{"app.kubernetes.io/name": "podfence", "app.kubernetes.io/component": "agent"}
		pod.Spec.HostNetwork = true
		pod.Spec.Containers = []corev1.Container{{Command: []string{"/podfence"}, Args: append([]string{"agent"}, args...)}}
		return pod
	}
	fromEnvironment := agent()
	fromEnvironment.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PODFENCE_POD_TO_NODE", Value: "allow"}}
	other := agent("--pod-to-node=allow")
	other.Labels["app.kubernetes.io/component"] = "status-writer"
	tenant := agent()
	tenant.Spec.HostNetwork = false
	for _, c := range []struct {
		name string
		pods []*corev1.Pod
		want bool
	}{
		{"a tenant's pod of these labels", []*corev1.Pod{agent("--pod-to-node=allow"), tenant}, true},
		{"no agent", []*corev1.Pod{other}, false},
		{"not said", []*corev1.Pod{agent()}, false},
		{"allow", []*corev1.Pod{agent("--pod-to-node=allow"), other}, true},
		{"two words", []*corev1.Pod{agent("--pod-to-node", "allow")}, true},
		{"environment", []*corev1.Pod{fromEnvironment}, true},
		{"the last wins", []*corev1.Pod{agent("--pod-to-node=allow", "--pod-to-node=police")}, false},
		{"some do not", []*corev1.Pod{agent("--pod-to-node=allow"), agent()}, false},
	} {
		if got := agents.AllowToNode(c.pods); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
