package answers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/recorder"
)

// liveKernel has flows, others at each look, and fails when they are used up.
type liveKernel struct {
	fakeKernel
	looks [][]nft.OpenFlow
}

func (k *liveKernel) WouldCut(_ context.Context, _ uint32, asIs, wouldBe func(nft.HookPoint, packet.Packet) bool, tell func(nft.OpenFlow)) (open int, err error) {
	if len(k.looks) == 0 {
		return 0, fmt.Errorf("no more")
	}
	for _, f := range k.looks[0] {
		if !f.Ended {
			open++
		}
		if asIs(f.Hook, f.JudgedBy) && !wouldBe(f.Hook, f.JudgedBy) {
			tell(f)
		}
	}
	k.looks = k.looks[1:]
	return open, nil
}

// liveServer is a server on a node with the pods shop/web-0 and shop/web-1, 10.0.0.1 and 10.0.0.2, of a Deployment
// web, and shop/db, 10.0.0.3. The pod data/far, 10.0.9.9, is elsewhere. Nothing is denied.
func liveServer(t *testing.T, looks ...[]nft.OpenFlow) *Server {
	t.Helper()
	e := enforcer.New(&recorder.Kernel{}, enforcer.Options{Node: "node-1"})
	pod := func(namespace, name, node, ip string, labels map[string]string) policy.Change {
		return policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: namespace, Name: name}, Node: node, IPs: []netip.Addr{netip.MustParseAddr(ip)}, Labels: policy.LabelsOf(labels)})
	}
	e.Feed(
		policy.SetNamespace(policy.Namespace{Name: "shop"}), policy.SetNamespace(policy.Namespace{Name: "data", Labels: map[string]string{"team": "data"}}),
		pod("shop", "web-7d9f-aaaaa", "node-1", "10.0.0.1", map[string]string{"app": "web", "pod-template-hash": "7d9f"}),
		pod("shop", "web-7d9f-bbbbb", "node-1", "10.0.0.2", map[string]string{"app": "web", "pod-template-hash": "7d9f"}),
		pod("shop", "db", "node-1", "10.0.0.3", map[string]string{"app": "db"}), pod("data", "far", "node-2", "10.0.9.9", map[string]string{"app": "far"}),
		policy.Synced(),
	)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { _ = e.Start(ctx) }()
	if err := e.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	s := newServer(&fakeKernel{}, &fakeModel{})
	s.options.Kernel, s.options.Supposer, s.options.Names = &liveKernel{looks: looks}, e, observer.ModelNames{Holders: e}
	return s
}

// flowTo is a flow to a TCP port.
func flowTo(id, from, to string, port uint16, change func(*nft.OpenFlow)) nft.OpenFlow {
	p := packet.Packet{Src: netip.MustParseAddr(from), Dst: netip.MustParseAddr(to), Protocol: packet.TCP, DstPort: port, HopLimit: 64}
	f := nft.OpenFlow{ID: id, Packet: p, JudgedBy: p, Hook: nft.Forward, Counted: true, Bytes: 100, Idle: 10 * time.Second}
	if change != nil {
		change(&f)
	}
	return f
}

// liveAnswers asks, and returns all lines that are not empty.
func liveAnswers(t *testing.T, s *Server, question string) (all []answers.LiveCuts) {
	t.Helper()
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	response, err := http.Post(server.URL+answers.LivePath, "application/json", strings.NewReader(question))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %v", response.Status, body, err)
	}
	for line := range bytes.Lines(body) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var said answers.LiveCuts
		if err := json.Unmarshal(line, &said); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, said)
	}
	return all
}

// onlyFar lets data/far alone into the database, by its namespace's label.
const onlyFar = `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "db"},
	"spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "data"}}}]}]}}`

// TestLiveCuts: flows that would be cut are gathered by workload and port, with what they have carried; a flow that is
// listed twice counts once, and one that has ended, or whose peer the policy lets in, not at all.
func TestLiveCuts(t *testing.T) {
	flows := []nft.OpenFlow{
		flowTo("a", "10.0.0.1", "10.0.0.3", 5432, nil), flowTo("a", "10.0.0.1", "10.0.0.3", 5432, nil),
		flowTo("b", "10.0.0.2", "10.0.0.3", 5432, func(f *nft.OpenFlow) { f.Bytes, f.Idle = 50, time.Second }),
		flowTo("c", "10.0.0.2", "10.0.0.3", 5432, func(f *nft.OpenFlow) { f.Counted, f.Bytes, f.Idle = false, 0, -1 }),
		flowTo("d", "10.0.0.2", "10.0.0.3", 5433, func(f *nft.OpenFlow) { f.Ended = true }),
		flowTo("e", "10.0.9.9", "10.0.0.3", 5432, nil), flowTo("f", "10.0.0.1", "10.0.0.2", 80, nil),
		flowTo("g", "203.0.113.9", "10.0.0.3", 5432, func(f *nft.OpenFlow) { f.Idle = -1 }),
	}
	all := liveAnswers(t, liveServer(t, flows), `{"changed": [`+onlyFar+`]}`)
	if len(all) != 1 || !all[0].Done || all[0].Open != 7 || all[0].Node != "node-1" || len(all[0].Cuts) != 2 {
		t.Fatalf("%+v", all)
	}
	web, outside := all[0].Cuts[0], all[0].Cuts[1]
	if web.Source.Kind != "Deployment" || web.Source.Name != "web" || web.Destination.Kind != "Pod" || web.Port != 5432 || web.Protocol != "TCP" ||
		web.Flows != 3 || web.CountedFlows != 2 || web.Bytes != 150 || web.Direction != "ingress" || web.Text != "isolated by NetworkPolicy shop/db" {
		t.Errorf("%+v", web)
	}
	if since := time.Since(web.LastSeen); since < time.Second || since > 5*time.Second {
		t.Errorf("last seen %s ago", since)
	}
	if outside.Source.Kind != "Address" || outside.Source.Address != netip.MustParseAddr("203.0.113.9") || !outside.LastSeen.IsZero() || outside.Flows != 1 {
		t.Errorf("%+v", outside)
	}
}

// TestLiveKnowsLabels: labels of Namespaces and pods are those that would be, wherever the pod is.
func TestLiveKnowsLabels(t *testing.T) {
	flows := []nft.OpenFlow{flowTo("a", "10.0.9.9", "10.0.0.3", 5432, nil), flowTo("b", "10.0.0.1", "10.0.0.3", 5432, nil)}
	const namespace = `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "data", "labels": {"team": "none"}}}`
	const pod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "db", "labels": {"app": "other"}}}`
	for question, want := range map[string]int{
		onlyFar: 1, onlyFar + "," + namespace: 2, onlyFar + "," + pod: 0,
	} {
		all := liveAnswers(t, liveServer(t, flows), `{"changed": [`+question+`]}`)
		if len(all) != 1 || len(all[0].Cuts) != want {
			t.Errorf("%s: %d cuts, want %d: %+v", question, len(all[0].Cuts), want, all)
		}
	}
}

// TestLiveFollows: what begins later is counted, though it has ended, and what was there before is not counted again;
// bytes grow. That connections cannot be listed any more is said.
func TestLiveFollows(t *testing.T) {
	had := flowTo("had", "10.0.0.1", "10.0.0.3", 1, nil)
	over := flowTo("over", "10.0.0.1", "10.0.0.3", 2, func(f *nft.OpenFlow) { f.Ended = true })
	grown := flowTo("had", "10.0.0.1", "10.0.0.3", 1, func(f *nft.OpenFlow) { f.Bytes, f.Ended = 170, true })
	begun := flowTo("begun", "10.0.0.1", "10.0.0.3", 3, func(f *nft.OpenFlow) { f.Ended = true })
	s := liveServer(t, []nft.OpenFlow{had, over}, []nft.OpenFlow{grown, over, begun})
	all := liveAnswers(t, s, `{"seconds": 1, "changed": [`+onlyFar+`]}`)
	if len(all) != 2 || all[0].Done || !all[1].Done || len(all[0].Cuts) != 1 || len(all[1].Cuts) != 2 {
		t.Fatalf("%+v", all)
	}
	if cuts := all[1].Cuts; cuts[0].Port != 1 || cuts[0].Flows != 1 || cuts[0].Bytes != 170 || cuts[1].Port != 3 || cuts[1].Flows != 1 {
		t.Errorf("%+v", cuts)
	}
	s = liveServer(t, []nft.OpenFlow{had})
	if all := liveAnswers(t, s, `{"seconds": 1, "changed": [`+onlyFar+`]}`); len(all) != 2 || all[1].Message == "" || len(all[1].Cuts) != 1 {
		t.Errorf("%+v", all)
	}
}

// TestLiveIsBounded: of many pairs there are no more than MaxCuts, and the flows of the others are counted.
func TestLiveIsBounded(t *testing.T) {
	var flows []nft.OpenFlow
	for i := range answers.MaxCuts + 25 {
		from := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}).String()
		flows = append(flows, flowTo(from, from, "10.0.0.3", 5432, nil))
	}
	all := liveAnswers(t, liveServer(t, flows), `{"changed": [`+onlyFar+`]}`)
	if len(all) != 1 || len(all[0].Cuts) != answers.MaxCuts || all[0].LeftOut != 25 {
		t.Errorf("%d cuts, and %d flows are left out", len(all[0].Cuts), all[0].LeftOut)
	}
}

// TestLiveIsRefused: what is not understood is refused, and nothing is looked at for it.
func TestLiveIsRefused(t *testing.T) {
	for question, says := range map[string]string{
		`{`: "not a LiveQuestion", `{"chnaged": []}`: "unknown field", `{} {}`: "more after",
		`{"seconds": 3601}`: "from 0 to 3600", `{"seconds": -1}`: "from 0 to 3600",
		`{"changed": [{"kind": "Service", "metadata": {"name": "a"}}]}`: `kind is "Service"`, `{"changed": [{"kind": "Pod"}]}`: "no name", `{"changed": [7]}`: "no object",
		`{"changed": [{"kind": "NetworkPolicy", "metadata": {"name": "a"}, "spec": 7}]}`: "no NetworkPolicy",
		`{"removed": [{"kind": "Pod", "name": "a"}]}`:                                    `kind is "Pod"`,
	} {
		w := ask(t, liveServer(t), http.MethodPost, answers.LivePath, question, nil)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), strings.ReplaceAll(says, `"`, `\"`)) {
			t.Errorf("%s: %d: %s", question, w.Code, w.Body)
		}
	}
	large := `{"changed": ["` + strings.Repeat("x", answers.MaxLiveQuestion) + `"]}`
	if w := ask(t, liveServer(t), http.MethodPost, answers.LivePath, large, nil); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d: %s", w.Code, w.Body)
	}
	if w := ask(t, liveServer(t), http.MethodGet, answers.LivePath, "", nil); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("by GET: %d", w.Code)
	}
	if w := ask(t, newServer(&fakeKernel{}, &fakeModel{}), http.MethodPost, answers.LivePath, `{}`, nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without a model: %d", w.Code)
	}
	if w := ask(t, liveServer(t), http.MethodPost, answers.LivePath, `{}`, nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without a list of flows: %d", w.Code)
	}
	if w := ask(t, liveServer(t), http.MethodPost, answers.LivePath, `{}`, func(r *http.Request) { r.RemoteAddr = "192.0.2.7:40000" }); w.Code != http.StatusForbidden {
		t.Errorf("from elsewhere: %d", w.Code)
	}
	s := liveServer(t)
	for range livesAtOnce {
		s.living <- struct{}{}
	}
	if w := ask(t, s, http.MethodPost, answers.LivePath, `{}`, nil); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("when many ask: %d", w.Code)
	}
}
