package commands_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podfence/podfence/api/flows"
)

// flowAgent plays an agent that has seen flows.
type flowAgent struct {
	mu    sync.Mutex
	seen  []*flows.Flow
	asked []flows.Query
	// more gets flows for whoever follows, and is closed to end the stream.
	more chan *flows.Flow
	// missed is told before all.
	missed uint64
}

func (a *flowAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, err := flows.ParseQuery(r.URL.Query(), time.Now())
	if r.Method != http.MethodGet || r.URL.Path != flows.Path || err != nil {
		http.Error(w, fmt.Sprint("asked for ", r.Method, " ", r.URL, ": ", err), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	a.asked = append(a.asked, q)
	seen, more := a.seen, a.more
	a.mu.Unlock()
	encoder := json.NewEncoder(w)
	if a.missed > 0 {
		_ = encoder.Encode(flows.Missed{Missed: a.missed})
	}
	for _, f := range seen {
		if q.WantsKept(f) {
			_ = encoder.Encode(f)
		}
	}
	_ = http.NewResponseController(w).Flush()
	for q.Follow {
		select {
		case f, open := <-more:
			if !open {
				return
			}
			_ = encoder.Encode(f)
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (a *flowAgent) queries() []flows.Query {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// start starts the agent, and returns the flag that has it asked.
func (a *flowAgent) start(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return "--agent=" + strings.TrimPrefix(server.URL, "http://")
}

// utc has times shown in UTC while a test runs.
func utc(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// denied is a denial some time after noon, but for what is changed.
func denied(after time.Duration, change func(*flows.Flow)) *flows.Flow {
	f := &flows.Flow{
		Time: noon.Add(after), Node: "node-1", Verdict: flows.Denied, Direction: flows.Egress, Protocol: "TCP", Reason: flows.DefaultDeny, TCPFlags: "SYN",
		Source:      flows.Endpoint{IP: netip.MustParseAddr("10.1.0.1"), Port: 40000, Namespace: "shop", Pod: "web-7d9", Workload: &flows.Workload{Kind: "Deployment", Name: "web"}},
		Destination: flows.Endpoint{IP: netip.MustParseAddr("10.1.0.2"), Port: 5432, Namespace: "shop", Pod: "db-0"},
		Asked:       &flows.Asked{IP: netip.MustParseAddr("10.96.0.7"), Port: 5432, Namespace: "shop", Service: "db"},
		Policies:    []flows.Policy{{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "web-egress"}},
	}
	if change != nil {
		change(f)
	}
	return f
}

// TestObserveText: a line for each flow, and once for each kind of packet what is below it.
func TestObserveText(t *testing.T) {
	utc(t)
	rule, echo := 2, uint8(8)
	a := &flowAgent{seen: []*flows.Flow{
		denied(2345*time.Millisecond, func(f *flows.Flow) { f.NearestMiss = "port 5433 of NetworkPolicy shop/web-egress \x1b[2J" }),
		denied(12345*time.Millisecond, func(f *flows.Flow) { f.Repeats = 42 }),
		denied(13*time.Second, func(f *flows.Flow) {
			f.Direction, f.Asked, f.Reason, f.Protocol = flows.Ingress, nil, flows.ByRule, "UDP"
			f.Source = flows.Endpoint{IP: netip.MustParseAddr("fd00::1"), Port: 9}
			f.Destination = flows.Endpoint{IP: netip.MustParseAddr("fd00::2"), Port: 53, Node: "node-2"}
			f.Policies = []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Admin", Name: "no-dns", Rule: &rule, RuleName: "deny all"}}
		}),
		denied(14*time.Second, func(f *flows.Flow) {
			f.Direction, f.Asked, f.Reason, f.Policies, f.Protocol, f.ICMPType, f.Text = "", nil, flows.Spoofed, nil, "ICMP", &echo, "the sender is another pod"
			f.Destination = flows.Endpoint{IP: netip.MustParseAddr("192.0.2.1")}
		}),
		denied(15*time.Second, func(f *flows.Flow) {
			f.Asked.Service, f.Destination = "", flows.Endpoint{IP: netip.MustParseAddr("fd00::3"), Port: 443}
			f.DestinationNames = []string{"api.example.com", "www.example.com"}
		}),
		denied(16*time.Second, func(f *flows.Flow) {
			f.Verdict, f.Event, f.Reason, f.Policies, f.SampledOf = flows.Allowed, flows.Began, "", nil, 10
		}),
		denied(17*time.Second, func(f *flows.Flow) {
			f.Verdict, f.Event, f.Reason, f.Packets, f.Bytes = flows.Allowed, flows.Ended, "", 10, 840
		}),
		denied(18*time.Second, func(f *flows.Flow) { f.Source.Namespace, f.Source.Workload = "node", nil }),
		denied(19*time.Second, func(f *flows.Flow) {
			f.Verdict, f.NearestMiss = flows.WouldDeny, "port 5433 of NetworkPolicy shop/web-egress"
			f.Policies[0].Staged = true
		}),
		denied(20*time.Second, func(f *flows.Flow) {
			f.Verdict, f.Reason, f.NearestMiss = flows.WouldAllow, "", ""
			f.Policies = []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Admin", Name: "dns", Rule: &rule, Staged: true}}
		}),
		denied(21*time.Second, func(f *flows.Flow) {
			f.Verdict, f.Reason, f.Policies, f.Text = flows.WouldAllow, "", nil, "allowed with the staged policies in force"
		}),
	}}
	agent := a.start(t)
	const want = `12:00:02.345 DENIED egress shop/web-7d9 (Deployment web) -> shop/db-0:5432/TCP via Service shop/db:5432  default-deny by NetworkPolicy shop/web-egress
  nearly: port 5433 of NetworkPolicy shop/web-egress ^[[2J
  kubectl podfence explain shop/web-7d9 shop/db-0:5432
12:00:12.345 DENIED egress shop/web-7d9 (Deployment web) -> shop/db-0:5432/TCP via Service shop/db:5432  default-deny by NetworkPolicy shop/web-egress  (42 more in 10s)
12:00:13.000 DENIED ingress fd00::1 -> node/node-2:53/UDP  rule by ClusterNetworkPolicy no-dns ingress[2] (deny all)
  kubectl podfence explain fd00::1 node/node-2:53/UDP
12:00:14.000 DENIED shop/web-7d9 (Deployment web) -> 192.0.2.1/ICMP type 8  spoofed: the sender is another pod
12:00:15.000 DENIED egress shop/web-7d9 (Deployment web) -> [fd00::3]:443/TCP (api.example.com, www.example.com) via 10.96.0.7:5432  default-deny by NetworkPolicy shop/web-egress
  kubectl podfence explain shop/web-7d9 '[fd00::3]:443'
12:00:16.000 ALLOWED (began) egress shop/web-7d9 (Deployment web) -> shop/db-0:5432/TCP via Service shop/db:5432  no policy is about it  (one of 10)
12:00:17.000 ALLOWED (ended) egress shop/web-7d9 (Deployment web) -> shop/db-0:5432/TCP via Service shop/db:5432  10 packets, 840 bytes
12:00:18.000 DENIED egress node/web-7d9 -> shop/db-0:5432/TCP via Service shop/db:5432  default-deny by NetworkPolicy shop/web-egress
  kubectl podfence explain pod/node/web-7d9 shop/db-0:5432
12:00:19.000 WOULD-DENY egress shop/web-7d9 (Deployment web) -> shop/db-0:5432/TCP via Service shop/db:5432  default-deny by NetworkPolicy shop/web-egress (staged)
  nearly: port 5433 of NetworkPolicy shop/web-egress
  kubectl podfence explain shop/web-7d9 shop/db-0:5432
12:00:20.000 WOULD-ALLOW egress shop/web-7d9 (Deployment web) -> shop/db-0:5432/TCP via Service shop/db:5432  by ClusterNetworkPolicy dns egress[2] (staged)
12:00:21.000 WOULD-ALLOW egress shop/web-7d9 (Deployment web) -> shop/db-0:5432/TCP via Service shop/db:5432  allowed with the staged policies in force
`
	code, out, errOut := call(t, "observe", agent, "--verdict", "all")
	if code != 0 || errOut != "" || out != want {
		t.Errorf("exit code %d, %s:\n%s\ninstead of\n%s", code, errOut, out, want)
	}
	if _, out, _ := call(t, "observe", agent, "--no-explain"); strings.Contains(out, "kubectl") || strings.Contains(out, "nearly") || strings.Contains(out, "ALLOWED") || strings.Count(out, "\n") != 9 {
		t.Errorf("--no-explain:\n%s", out)
	}
	if _, out, _ := call(t, "observe", agent, "--no-explain", "--verdict", "would-deny,allowed"); strings.Count(out, "WOULD-DENY") != 1 || strings.Count(out, "ALLOWED") != 2 || strings.Count(out, "\n") != 3 {
		t.Errorf("--verdict would-deny,allowed:\n%s", out)
	}
	if _, out, _ := call(t, "observe", agent, "--no-explain", "--reason", "default-deny"); strings.Count(out, "WOULD-DENY") != 1 || strings.Contains(out, "WOULD-ALLOW") {
		t.Errorf("--reason default-deny:\n%s", out)
	}
	if _, out, _ := call(t, "observe", agent, "-o", "wide"); !strings.HasPrefix(out, "2026-01-31T12:00:02.345Z node-1 DENIED egress shop/web-7d9 [10.1.0.1] (Deployment web) -> shop/db-0:5432 [10.1.0.2]/TCP SYN via Service shop/db:5432") {
		t.Errorf("-o wide:\n%s", out)
	}
}

// TestObserveExplains: the commands that are printed are those that explain takes.
func TestObserveExplains(t *testing.T) {
	a := &flowAgent{seen: []*flows.Flow{
		denied(0, nil),
		denied(0, func(f *flows.Flow) { f.Protocol, f.Source = "SCTP", flows.Endpoint{IP: netip.MustParseAddr("fd00::1")} }),
		denied(0, func(f *flows.Flow) {
			f.Protocol, f.Destination = "UDP", flows.Endpoint{IP: netip.MustParseAddr("fd00::1"), Port: 1}
		}),
		denied(0, func(f *flows.Flow) {
			f.Protocol, f.Destination = "ICMPv6", flows.Endpoint{IP: netip.MustParseAddr("fd00::1")}
		}),
		denied(0, func(f *flows.Flow) { f.Source = flows.Endpoint{IP: netip.MustParseAddr("10.0.0.1"), Node: "node-1"} }),
		denied(0, func(f *flows.Flow) { f.Destination.Namespace = "deploy" }),
	}}
	_, out, _ := call(t, "observe", a.start(t))
	found := 0
	for line := range strings.Lines(out) {
		command, is := strings.CutPrefix(line, "  kubectl podfence ")
		if !is {
			continue
		}
		found++
		args := strings.Fields(strings.ReplaceAll(command, "'", ""))
		if _, _, errOut := call(t, append(args, "-f", shop)...); strings.Contains(errOut, "is no target") || strings.Contains(errOut, "a port is") || strings.Contains(errOut, "unknown") {
			t.Errorf("%s: %s", command, errOut)
		}
	}
	if found != 6 {
		t.Errorf("%d commands are printed:\n%s", found, out)
	}
}

// TestObserveMerges: flows of all agents are in the order of time, and of them the last that were asked for.
func TestObserveMerges(t *testing.T) {
	var args []string
	for n := range 20 {
		a := &flowAgent{}
		for i := range 30 {
			a.seen = append(a.seen, denied(time.Duration(i*20+n)*time.Second, func(f *flows.Flow) { f.Text = fmt.Sprint(i*20 + n) }))
		}
		args = append(args, a.start(t))
	}
	for last, flag := range map[int][]string{100: nil, 7: {"--last", "7"}, 0: {"--last=0"}, 600: {"--since", "2026-01-01T00:00:00Z"}} {
		code, out, errOut := call(t, append(append([]string{"observe", "-o", "json"}, args...), flag...)...)
		var texts, want []string
		for line := range strings.Lines(out) {
			f, _, err := flows.ParseLine([]byte(strings.TrimSpace(line)))
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, f.Text)
		}
		for n := 600 - last; n < 600; n++ {
			want = append(want, fmt.Sprint(n))
		}
		if strings.Join(texts, " ") != strings.Join(want, " ") || code != 0 || errOut != "" {
			t.Errorf("%v: exit code %d, %s: %v", flag, code, errOut, texts)
		}
	}
}

// TestObserveAsks: agents are asked for what flags say.
func TestObserveAsks(t *testing.T) {
	for args, want := range map[string]string{
		"":                                    "last=100&verdict=denied&verdict=would-deny&verdict=would-allow",
		"--verdict all":                       "last=100",
		"--verdict would-deny,allowed":        "last=100&verdict=would-deny&verdict=allowed",
		"--since 2026-01-31T12:00:00Z":        "last=10000&since=2026-01-31T12%3A00%3A00Z&verdict=denied&verdict=would-deny&verdict=would-allow",
		"--last 7":                            "last=7&verdict=denied&verdict=would-deny&verdict=would-allow",
		"-n shop":                             "last=100&namespace=shop&verdict=denied&verdict=would-deny&verdict=would-allow",
		"-n shop -A":                          "last=100&verdict=denied&verdict=would-deny&verdict=would-allow",
		"-n shop web deploy/api":              "last=100&pod=shop/web&pod=Deployment/shop/api&verdict=denied&verdict=would-deny&verdict=would-allow",
		"ns/shop 10.0.0.0/8 svc/a/b node/n":   "ip=10.0.0.0/8&last=100&pod=shop/*&pod=Service/a/b&pod=Node//n&verdict=denied&verdict=would-deny&verdict=would-allow",
		"--from shop/web --to 10.0.0.1":       "from=shop/web&last=100&to=10.0.0.1&verdict=denied&verdict=would-deny&verdict=would-allow",
		"--port 1,2 --protocol tcp":           "last=100&port=1&port=2&protocol=tcp&verdict=denied&verdict=would-deny&verdict=would-allow",
		"--direction egress --reason rule":    "direction=egress&last=100&reason=rule&verdict=denied&verdict=would-deny&verdict=would-allow",
		"--policy shop/a --policy b":          "last=100&policy=shop/a&policy=b&verdict=denied&verdict=would-deny&verdict=would-allow",
		"--to svc/shop/db --to sts/shop/db-0": "last=100&to=Service/shop/db&to=StatefulSet/shop/db-0&verdict=denied&verdict=would-deny&verdict=would-allow",
	} {
		a := &flowAgent{}
		code, _, errOut := call(t, append([]string{"observe", a.start(t)}, strings.Fields(args)...)...)
		if code != 0 || len(a.queries()) != 1 {
			t.Errorf("%s: exit code %d, asked %d times: %s", args, code, len(a.queries()), errOut)
			continue
		}
		q := a.queries()[0]
		got, err := url.PathUnescape(strings.ReplaceAll(q.Values().Encode(), "%3A", "%253A"))
		if err != nil || got != want {
			t.Errorf("%s: asked for %s instead of %s, %v", args, got, want, err)
		}
	}
	for args, says := range map[string]string{
		"--verdict drop": "--verdict", "--port http": "--port", "--direction in": "--direction", "--reason why": "default-deny", "--since x": "--since",
		"--from a/b/c/d": "--from", "--to fe80::1%eth0": "--to", "a/b/c/d": "no target", "-o yaml": "--output", "--node node-9": "--node", "--agent-timeout 0s": "--agent-timeout",
	} {
		code, out, errOut := call(t, append([]string{"observe", "--agent=127.0.0.1:1"}, strings.Fields(args)...)...)
		if code != 2 || out != "" || !strings.Contains(errOut, says) {
			t.Errorf("%s: exit code %d, %s%s", args, code, out, errOut)
		}
	}
}

// TestObserveWithoutAnswer: which agents do not answer is said, and what others have seen is shown.
func TestObserveWithoutAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	old := httptest.NewServer(http.NotFoundHandler())
	defer old.Close()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"message":"16 read flows already"}`)
	}))
	defer busy.Close()
	a := &flowAgent{seen: []*flows.Flow{denied(0, nil)}, missed: 7}
	code, out, errOut := call(t, "observe", a.start(t), "--agent", silent.Addr().String(), "--agent", old.Listener.Addr().String(), "--agent", busy.Listener.Addr().String(), "--agent", "127.0.0.1:1", "--agent-timeout", "200ms")
	if code != 1 || !strings.Contains(out, "shop/web-7d9") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	for _, says := range []string{"no answer within 200ms", "older version than this plugin", "16 read flows already", "connection refused", "7 flows are missing"} {
		if strings.Count(errOut, says) != 1 {
			t.Errorf("it does not say %q once:\n%s", says, errOut)
		}
	}
}

// observes: agents are found in a cluster, and those that are concerned are asked.
func observes(t *testing.T, api *kubernetes.Clientset, call func(...string) (int, string, string)) {
	if _, err := api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := api.CoreV1().Nodes().Delete(t.Context(), "node-2", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	if code, _, errOut := call("observe"); code != 1 || !strings.Contains(errOut, "node-1: there is no pod of an agent on it") || !strings.Contains(errOut, "node-2: there") {
		t.Errorf("without an agent: exit code %d: %s", code, errOut)
	}
	if code, _, errOut := call("observe", "--node", "none"); code != 2 || !strings.Contains(errOut, `--node is "none"`) {
		t.Errorf("no such node: exit code %d: %s", code, errOut)
	}
	if _, _, errOut := call("observe", "--from", "shop/web"); strings.Count(errOut, "\n") != 2 {
		t.Errorf("of one pod, not all agents are asked: %s", errOut)
	}
	if _, _, errOut := call("observe", "--from", "shop/web", "--to", "shop/none"); strings.Count(errOut, "\n") != 2 {
		t.Errorf("of a pod that is not there, not all agents are asked: %s", errOut)
	}
	if code, out, errOut := call("observe", "--from", "shop/web", "--to", "shop/db"); code != 1 || out != "" || strings.Count(errOut, "\n") != 1 {
		t.Errorf("of two pods: exit code %d: %s%s", code, out, errOut)
	}
	for args, want := range map[string]string{
		"observe shop/w": "shop/web", "observe shop/web sh": "shop/", "observe --from deploy/sh": "deploy/shop/", "observe --verdict ": "denied allowed would-deny would-allow all", "observe --node ": "node-1 node-2", "observe --output ": "json wide",
	} {
		_, out, _ := call(append([]string{"__complete"}, strings.Split(args, " ")...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if got := strings.Join(lines[:len(lines)-1], " "); got != want {
			t.Errorf("%s: offers %q instead of %q", args, got, want)
		}
	}
}
