package answers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/build"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// fakeKernel has a pod behind a port of the bridge, an address of the node's own, and a default route.
type fakeKernel struct {
	mu    sync.Mutex
	way   []nft.Visit
	deny  nft.HookPoint // where packets of family inet are dropped; Output: nowhere
	block chan struct{} // nil: nothing waits
	err   error
}

func (k *fakeKernel) Trace(ctx context.Context, way []nft.Visit) (visited []nft.Visited, err error) {
	if k.block != nil {
		select {
		case <-k.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.way = way
	for _, visit := range way {
		v := nft.Visited{Visit: visit, Table: true}
		if visit.Family == nft.Inet && visit.Hook == k.deny && k.deny != nft.Output {
			v.Verdict = nft.Drop
			v.Steps = []nft.ReadStep{{Chain: "c", Handle: 7, Comment: "a policy", Ended: true, Verdict: nft.Verdict{Action: nft.Drop}}}
			return append(visited, v), k.err
		}
		visited = append(visited, v)
	}
	return visited, k.err
}

func (*fakeKernel) LinkTo(addr netip.Addr) (*nft.Link, error) {
	switch {
	case addr == netip.MustParseAddr("192.0.2.10"):
		return &nft.Link{Name: "lo", Local: true}, nil
	case netip.MustParsePrefix("10.244.1.0/24").Contains(addr):
		return &nft.Link{Name: "podfence0"}, nil
	case addr.Is6():
		return nil, nil
	}
	return &nft.Link{Name: "eth0"}, nil
}

func (*fakeKernel) Link(name string) (*nft.Link, error) {
	return &nft.Link{Name: name, Group: 28774, Master: "podfence0"}, nil
}

func (*fakeKernel) FlowsOf(_ context.Context, p packet.Packet, bit uint32, most int) ([]nft.TrackedFlow, int, int, error) {
	to := netip.AddrPortFrom(p.Dst, p.DstPort)
	return []nft.TrackedFlow{{Source: netip.AddrPortFrom(p.Src, 40000), Destination: to, Addressed: netip.MustParseAddrPort("10.96.0.1:80"), Revoked: bit != 0}}, 3, 1, nil
}

func (*fakeKernel) WouldCut(context.Context, uint32, func(nft.HookPoint, packet.Packet) bool, func(nft.HookPoint, packet.Packet) bool, func(nft.OpenFlow)) (int, error) {
	return 0, errors.New("there are no flows")
}

func (*fakeKernel) Counts() bool { return true }

// fakeModel counts how often it is asked.
type fakeModel struct{ asked int }

func (m *fakeModel) Counts() policy.Counts {
	m.asked++
	return policy.Counts{Pods: 3, Isolated: 2, Policies: 5, Active: 4}
}

// StagedPolicies has one with a problem, and one without.
func (*fakeModel) StagedPolicies() []policy.Key {
	return []policy.Key{{Namespace: "shop", Name: "deny"}, {Namespace: "shop", Name: "other"}}
}

func (*fakeModel) Attachments() []policy.Attachment {
	return []policy.Attachment{
		{HostInterface: "pfa", MAC: [6]byte{2, 1}, IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}},
		{HostInterface: "pfb", MAC: [6]byte{2, 2}, IPs: []netip.Addr{netip.MustParseAddr("10.244.1.3")}},
	}
}

func (m *fakeModel) KnownNames() (counting, lapsed []policy.Resolution) {
	m.asked++
	counting = []policy.Resolution{
		{Name: "api.example.com", Addr: netip.MustParseAddr("203.0.113.7"), Pod: netip.MustParseAddr("10.244.1.2"), Expires: time.Unix(20, 0)},
		{Name: "api.example.com", Addr: netip.MustParseAddr("203.0.113.8"), Expires: time.Unix(10, 0)},
	}
	return counting, []policy.Resolution{{Name: "old.example.com", Addr: netip.MustParseAddr("203.0.113.9"), Pod: netip.MustParseAddr("10.244.1.2"), Expires: time.Unix(5, 0)}}
}

// fakeNames knows one pod.
type fakeNames struct{}

func (fakeNames) Endpoint(addr netip.Addr, _ uint16) flows.Endpoint {
	if addr == netip.MustParseAddr("10.244.1.2") {
		return flows.Endpoint{IP: addr, Namespace: "shop", Pod: "web"}
	}
	return flows.Endpoint{IP: addr}
}

// TestNames: what names are resolved to is answered with the pods that were told, and what has expired among what has lapsed.
// The model is asked once a second.
func TestNames(t *testing.T) {
	m := &fakeModel{}
	s := newServer(nil, m)
	s.options.Names = fakeNames{}
	for at, want := range map[int64][]int{6: {2, 1}, 11: {1, 2}, 30: {0, 3}} {
		if got := s.names(time.Unix(at, 0)); len(got.Names) != want[0] || len(got.Lapsed) != want[1] {
			t.Errorf("after %d s there are %+v", at, got)
		}
		s.listed = listed{}
	}
	n := s.names(time.Unix(6, 0))
	want := answers.Name{Name: "api.example.com", Address: netip.MustParseAddr("203.0.113.7"), PodAddress: netip.MustParseAddr("10.244.1.2"), Namespace: "shop", Pod: "web", Expires: time.Unix(20, 0)}
	if n.Names[0] != want || n.Names[1].Pod != "" || n.Names[1].PodAddress.IsValid() || n.Lapsed[0].Pod != "web" || n.Node != "node-1" || n.Kind != "Names" {
		t.Errorf("the answer is %+v", n)
	}
	asked := m.asked
	if again := s.names(time.Unix(6, 1)); again.Time != n.Time || m.asked != asked {
		t.Error("the model is asked again within a second")
	}
	got := ask(t, s, "GET", answers.NamesPath, "", nil)
	if got.Code != 200 || !strings.Contains(got.Body.String(), `"lapsed":[`) {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if got := ask(t, s, "POST", answers.NamesPath, "", nil); got.Code != 405 {
		t.Errorf("POST: %d", got.Code)
	}
}

func newServer(k *fakeKernel, m *fakeModel) *Server {
	r := report.New(report.Options{Node: "node-1", Log: logr.Discard(), Registry: prometheus.NewRegistry()})
	r.Of(enforcer.New(nil, enforcer.Options{Node: "node-1"})) // of which nothing is quarantined
	return New(Options{
		Node: "node-1", Build: build.Info{Version: "v1", Commit: "0123abc", GoVersion: "go1.26.1"}, Source: "api", Choices: answers.Options{CNI: "bridge", Guard: true, RevokedMark: 1 << 29},
		BridgeMAC: [6]byte{2, 9}, Model: m, Health: r.Health, Problems: r.Problems, Kernel: k, Log: logr.Discard(),
		Waiting: func() []answers.WaitingPod {
			return []answers.WaitingPod{{Name: "later", Since: time.Unix(2, 0), Reason: "why"}, {Name: "first", Since: time.Unix(1, 0)}}
		},
	})
}

// ask asks the server by its handler.
func ask(t *testing.T, s *Server, method, target, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:9477"+target, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:40000"
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func TestTrace(t *testing.T) {
	k := &fakeKernel{deny: nft.Forward}
	s := newServer(k, &fakeModel{})
	const question = `{"src":"10.244.1.2","dst":"10.9.9.9","protocol":"TCP","port":80}`
	post := ask(t, s, "POST", answers.TracePath, question, nil)
	get := ask(t, s, "GET", answers.TracePath+"?src=10.244.1.2&dst=10.9.9.9&protocol=tcp&port=80", "", nil)
	if post.Code != 200 || post.Body.String() != get.Body.String() {
		t.Fatalf("POST: %d %s\nGET: %d %s", post.Code, post.Body, get.Code, get.Body)
	}
	var trace answers.Trace
	if err := json.Unmarshal(post.Body.Bytes(), &trace); err != nil {
		t.Fatal(err)
	}
	if trace.Verdict != answers.Drop || trace.FlowCount != 3 || trace.RevokedCount != 1 || !trace.Flows[0].Revoked || trace.Kind != "Trace" || trace.APIVersion != answers.Version {
		t.Errorf("the answer is %s", post.Body)
	}
	last := trace.Hooks[len(trace.Hooks)-1]
	if last.Hook != "forward" || last.Steps[0].Comment != "a policy" || last.Steps[0].Handle != 7 || last.Steps[0].Action != "drop" {
		t.Errorf("the last hook is %+v", last)
	}
}

// TestWay: which hooks a packet takes, and by which links.
func TestWay(t *testing.T) {
	for _, c := range []struct{ src, dst, want string }{
		{"10.244.1.2", "10.9.9.9", "bridge prerouting pfa>; inet prerouting podfence0>; inet forward podfence0>eth0; inet postrouting podfence0>eth0"},
		{"10.9.9.9", "10.244.1.2", "inet prerouting eth0>; inet forward eth0>podfence0; inet postrouting eth0>podfence0; bridge output >pfa"},
		{"10.244.1.2", "10.244.1.3", "bridge prerouting pfa>; inet prerouting podfence0>; inet forward podfence0>podfence0; inet postrouting podfence0>podfence0; bridge output >pfb"},
		{"10.244.1.2", "192.0.2.10", "bridge prerouting pfa>; inet prerouting podfence0>; inet input podfence0>lo"},
		{"192.0.2.10", "10.244.1.2", "inet output >podfence0; inet postrouting >podfence0; bridge output >pfa"},
	} {
		k := &fakeKernel{deny: nft.Output}
		s := newServer(k, &fakeModel{})
		ask(t, s, "GET", answers.TracePath+"?protocol=udp&port=53&src="+c.src+"&dst="+c.dst, "", nil)
		var way []string
		for _, v := range k.way {
			way = append(way, fmt.Sprintf("%s %s %s>%s", v.Family, v.Hook, v.Packet.Frame.Port, v.Packet.Frame.Out))
			if v.Family == nft.Bridge && v.Hook == nft.Prerouting && (v.Packet.Frame.Src != [6]byte{2, 1} || v.Packet.Frame.Dst != [6]byte{2, 9} || v.Packet.Frame.Group != 28774) {
				t.Errorf("%s to %s: the frame is %+v", c.src, c.dst, v.Packet.Frame)
			}
			if v.Family == nft.Inet && v.Packet.State != nft.New {
				t.Errorf("%s to %s: the state is %v", c.src, c.dst, v.Packet.State)
			}
		}
		if got := strings.Join(way, "; "); got != c.want {
			t.Errorf("%s to %s takes\n%s, want\n%s", c.src, c.dst, got, c.want)
		}
	}
}

// TestOneBridge: what the bridge of another plugin passes between its ports meets the hooks of family inet
// only if br_netfilter takes it there.
func TestOneBridge(t *testing.T) {
	for _, c := range []struct {
		name, v4, v6 string // "-": the kernel does not have the setting
		src, dst     string
		inet         bool
	}{
		{"on", "1", "1", "10.244.1.2", "10.244.1.3", true},
		{"off", "0", "1", "10.244.1.2", "10.244.1.3", false},
		{"not loaded", "-", "-", "10.244.1.2", "10.244.1.3", false},
		{"to another node", "0", "0", "10.244.1.2", "10.9.9.9", true},
	} {
		settings := t.TempDir()
		if err := os.MkdirAll(filepath.Join(settings, "net/bridge"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"bridge-nf-call-iptables": c.v4, "bridge-nf-call-ip6tables": c.v6} {
			if value == "-" {
				continue
			}
			if err := os.WriteFile(filepath.Join(settings, "net/bridge", name), []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		k := &fakeKernel{deny: nft.Output}
		s := newServer(k, &fakeModel{})
		s.options.Choices.Guard, s.options.ProcSys = false, settings
		ask(t, s, "GET", answers.TracePath+"?protocol=udp&port=53&src="+c.src+"&dst="+c.dst, "", nil)
		inet := slices.ContainsFunc(k.way, func(v nft.Visit) bool { return v.Family == nft.Inet })
		if inet != c.inet {
			t.Errorf("%s: hooks of family inet: %t", c.name, inet)
		}
	}
	// Where that cannot be read, it is said what was taken for granted.
	s := newServer(&fakeKernel{deny: nft.Output}, &fakeModel{})
	s.options.Choices.Guard = false
	if w := ask(t, s, "GET", answers.TracePath+"?protocol=udp&port=53&src=10.244.1.2&dst=10.244.1.3", "", nil); !strings.Contains(w.Body.String(), "net.bridge.bridge-nf-call-iptables is 1") {
		t.Errorf("nothing is assumed: %s", w.Body)
	}
}

// TestProblems: of many policies with many problems each the first are listed, all are counted, and those of a
// namespace can be asked for.
func TestProblems(t *testing.T) {
	s := newServer(&fakeKernel{}, &fakeModel{})
	for n := range answers.MaxListed + 50 {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprintf("p%03d", n)}}
		var unread []policy.Problem
		for rule := range 20 {
			unread = append(unread, policy.Problem{Field: fmt.Sprintf("spec.ingress[%d]", rule), Reason: "no CIDR"})
		}
		s.options.Problems.Report(np, unread)
	}
	s.options.Problems.Report(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}, []policy.Problem{{Field: "spec", Reason: "no CIDR"}})
	for query, want := range map[string]struct{ rows, more int }{"": {answers.MaxListed * answers.MaxOfPolicy, 15}, "?namespace=shop": {1, 0}, "?namespace=none": {0, 0}} {
		w := ask(t, s, "GET", answers.StatusPath+query, "", nil)
		var status answers.Status
		if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
			t.Fatal(err)
		}
		p := status.Policies
		if p.WithProblems != answers.MaxListed+51 || p.Unreadable != answers.MaxListed+51 || len(p.Problems) != want.rows || want.rows > 0 && p.Problems[len(p.Problems)-1].More != want.more {
			t.Errorf("%q: %d policies, %d unreadable, %d rows", query, p.WithProblems, p.Unreadable, len(p.Problems))
		}
	}
}

// TestRefused: what is asked wrongly, or by whom it must not be, is an error in JSON that says so.
func TestRefused(t *testing.T) {
	s := newServer(&fakeKernel{}, &fakeModel{})
	host := func(host string) func(*http.Request) { return func(r *http.Request) { r.Host = host } }
	for _, c := range []struct {
		name, method, target, body string
		change                     func(*http.Request)
		code                       int
		says                       string
	}{
		{"another host", "GET", answers.StatusPath, "", host("evil.example:9477"), 403, "evil.example"},
		{"an address that is no loopback", "GET", answers.StatusPath, "", host("10.0.0.1:9477"), 403, "loopback"},
		{"no host", "GET", answers.StatusPath, "", host(""), 403, "loopback"},
		{"a name that begins well", "GET", answers.StatusPath, "", host("127.0.0.1.evil.example"), 403, "evil"},
		{"a web page", "GET", answers.StatusPath, "", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403, "web page"},
		{"a web page's image", "GET", answers.StatusPath, "", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403, "web page"},
		{"another machine", "GET", answers.StatusPath, "", func(r *http.Request) { r.RemoteAddr = "10.0.0.9:40000" }, 403, "on the node itself"},
		{"another path", "GET", "/v1/else", "", nil, 404, "/v1/else"},
		{"a method", "DELETE", answers.StatusPath, "", nil, 405, "GET"},
		{"no JSON", "POST", answers.TracePath, "x", nil, 400, "JSON"},
		{"an unknown field", "POST", answers.TracePath, `{"source":"10.0.0.1"}`, nil, 400, "source"},
		{"two questions", "POST", answers.TracePath, `{}{}`, nil, 400, "one at a time"},
		{"a large body", "POST", answers.TracePath, `{"protocol":"` + strings.Repeat("x", 5000) + `"}`, nil, 413, "4096"},
		{"no addresses", "POST", answers.TracePath, `{"protocol":"tcp"}`, nil, 400, "src and dst"},
		{"two families", "GET", answers.TracePath + "?src=10.0.0.1&dst=fd00::1&protocol=tcp", "", nil, 400, "families"},
		{"a zone", "GET", answers.TracePath + "?src=fe80::1%25eth0&dst=fd00::1&protocol=tcp", "", nil, 400, "zone"},
		{"a protocol", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=http", "", nil, 400, "http"},
		{"a port", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=tcp&port=65536", "", nil, 400, "65536"},
		{"a parameter twice", "GET", answers.TracePath + "?src=10.0.0.1&src=10.0.0.2", "", nil, 400, "2 times"},
		{"a parameter that is none", "GET", answers.TracePath + "?from=x", "", nil, 400, "from"},
		{"ICMPv6 of IPv4", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=icmpv6", "", nil, 400, "family"},
		{"ICMP with a port", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=icmp&port=8", "", nil, 400, "icmpType"},
		{"TCP without a port", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=tcp", "", nil, 400, "has ports: give one"},
		{"ESP with a port", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=50&port=1", "", nil, 400, "has no ports"},
		{"an echo reply", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=icmp&icmpType=0", "", nil, 400, "no connection begins with type 0"},
		{"an error", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=icmp&icmpType=3", "", nil, 400, "no connection begins with type 3"},
		{"discovery", "GET", answers.TracePath + "?src=fd00::1&dst=fd00::2&protocol=icmpv6&icmpType=135", "", nil, 400, "no connection begins with type 135"},
		{"TCP with a type", "GET", answers.TracePath + "?src=10.0.0.1&dst=10.0.0.2&protocol=tcp&icmpType=8", "", nil, 400, "icmpType"},
	} {
		w := ask(t, s, c.method, c.target, c.body, c.change)
		var failure answers.Failure
		if err := json.Unmarshal(w.Body.Bytes(), &failure); err != nil || w.Code != c.code || failure.Kind != "Failure" || !strings.Contains(failure.Message, c.says) {
			t.Errorf("%s: %d %s, want %d with %q", c.name, w.Code, w.Body, c.code, c.says)
		}
	}
	for _, name := range []string{"localhost:9477", "LOCALHOST", "[::1]:9477", "127.0.0.2"} {
		if w := ask(t, s, "GET", answers.StatusPath, "", host(name)); w.Code != 200 {
			t.Errorf("host %s: %d %s", name, w.Code, w.Body)
		}
	}
}

// TestCannotTell: without a verdict, none is given.
func TestCannotTell(t *testing.T) {
	s := newServer(&fakeKernel{err: errors.New("rule 3 of chain c")}, &fakeModel{})
	w := ask(t, s, "GET", answers.TracePath+"?src=10.0.0.1&dst=10.0.0.2&protocol=tcp&port=1", "", nil)
	if w.Code != 503 || !strings.Contains(w.Body.String(), "rule 3 of chain c") || strings.Contains(w.Body.String(), "verdict") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestMany: of more traces than there may be at once, the others are told to come again.
func TestMany(t *testing.T) {
	k := &fakeKernel{block: make(chan struct{})}
	s := newServer(k, &fakeModel{})
	codes := make(chan int, tracesAtOnce+3)
	for range cap(codes) {
		go func() {
			w := ask(t, s, "GET", answers.TracePath+"?src=10.0.0.1&dst=10.0.0.2&protocol=tcp&port=1", "", nil)
			if w.Code == 429 && w.Header().Get("Retry-After") == "" {
				w.Code = 0
			}
			codes <- w.Code
		}()
	}
	for range 3 {
		if code := <-codes; code != 429 {
			t.Errorf("one of those that must wait gets %d", code)
		}
	}
	close(k.block)
	for range tracesAtOnce {
		if code := <-codes; code != 200 {
			t.Errorf("one of those whose turn it is gets %d", code)
		}
	}
}

func TestStatus(t *testing.T) {
	m := &fakeModel{}
	s := newServer(&fakeKernel{}, m)
	s.Note(enforcer.Transacted{Operations: 9, Took: time.Second})
	s.Note(enforcer.Transacted{Operations: 7, Err: errors.New("refused")})
	s.Note(enforcer.Settled{Quarantined: 2, OverBudget: 1})
	s.Note(enforcer.Rehearsed{Policies: 2, Pods: 1})
	s.Note(enforcer.Repaired{})
	s.Note(enforcer.Repaired{})
	var status answers.Status
	for range 3 {
		w := ask(t, s, "GET", answers.StatusPath, "", nil)
		if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil || w.Code != 200 {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
	}
	switch {
	case status.Node != "node-1" || status.AgentVersion != "v1" || status.Options.RevokedMark != 1<<29:
	case status.Ready || len(status.Conditions) != 1 || status.Conditions[0].Name != string(report.NotStarted):
	case status.LastCommit == nil || status.LastCommit.Operations != 9 || status.LastCommit.DurationSeconds != 1:
	case status.Repairs.Count != 2 || status.Repairs.Last == nil || status.Policies.Quarantined != 2 || status.Policies.OverBudget != 1:
	case status.Pods != (answers.Pods{Fenced: 3, Isolated: 2, Attached: 2, Waiting: 2, Staged: 1}) || status.Policies.Total != 5 || status.Policies.Active != 4:
	case status.Waiting[0].Name != "first":
	case m.asked != 1:
		t.Errorf("the model was asked %d times within a second", m.asked)
	default:
		return
	}
	t.Errorf("the status is %+v", status)
}
