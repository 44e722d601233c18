package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
)

const shop = "../../explain/testdata/shop/"

// read reads the shop.
func read(t *testing.T) *Objects {
	t.Helper()
	files, err := manifests.Read([]string{shop + "cluster.yaml", shop + "policies.yaml"}, manifests.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := &explain.Cluster{Snapshot: files.Snapshot, Services: files.Services, EndpointSlices: files.EndpointSlices, Workloads: files.Workloads}
	x := explain.New(c, policy.JudgeOptions{})
	return &Objects{
		Cluster: c, Explainer: x, Complete: func(*explain.Explanation) {},
		Compare: func(after *explain.Cluster) *explain.Diff {
			return explain.Compare(x, explain.New(after, policy.JudgeOptions{}))
		},
	}
}

func backend(t *testing.T) Backend {
	return Backend{
		Source: "the shop", NoFlows: "no agents",
		Read: func(context.Context) (*Objects, error) { return read(t), nil },
		Change: func(text []byte, _ *explain.Cluster) (*explain.Cluster, error) {
			files, err := manifests.Read([]string{"-"}, manifests.ReadOptions{Stdin: strings.NewReader(string(text))})
			if err != nil {
				return nil, err
			}
			files.Namespaces = nil
			return &explain.Cluster{Snapshot: files.Snapshot}, nil
		},
	}
}

// server is a server of the shop that listens nowhere.
func server(t *testing.T) *Server {
	b := backend(t)
	return &Server{backend: &b, world: newWorld(&b), token: newToken()}
}

// answerOf is what a request is answered, as a T.
func answerOf[T any](t *testing.T, s *Server, method, path, body string, code int) (value T) {
	t.Helper()
	r := httptest.NewRequest(method, "http://localhost/"+s.token+"/api/"+path, strings.NewReader(body))
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil || w.Code != code {
		t.Fatalf("%s %s: %d %s (%v), want %d", method, path, w.Code, w.Body, err, code)
	}
	return value
}

// TestAnswers: each question has its answer, and what is wrong with one is said.
func TestAnswers(t *testing.T) {
	s := server(t)
	if st := answerOf[state](t, s, "GET", "state", "", 200); st.Namespaces != 2 || st.Policies != 5 || st.Flows || st.FlowsReason != "no agents" || st.Generation != 1 {
		t.Errorf("%+v", st)
	}
	first := answerOf[state](t, s, "GET", "state", "", 200).Read
	if st := answerOf[state](t, s, "POST", "read", "", 200); st.Generation != 1 || !st.Read.After(first) {
		t.Errorf("read again, with nothing changed: %+v", st)
	}
	unchanged := s.backend.Read
	s.backend.Read = func(ctx context.Context) (*Objects, error) {
		o, err := unchanged(ctx)
		o.Cluster.Policies[0].Labels = map[string]string{"new": "yes"}
		return o, err
	}
	if st := answerOf[state](t, s, "POST", "read", "", 200); st.Generation != 2 {
		t.Errorf("read again, with a policy changed: %+v", st)
	}
	if m := answerOf[explain.Map](t, s, "GET", "map?open=shop&port=8080/TCP", "", 200); len(m.Nodes) == 0 || len(m.Edges) == 0 {
		t.Errorf("%+v", m)
	}
	if m := answerOf[explain.ReachMatrix](t, s, "GET", "matrix?namespace=shop", "", 200); len(m.Parties) == 0 {
		t.Errorf("%+v", m)
	}
	if r := answerOf[explain.Reach](t, s, "GET", "reach?target=deploy/shop/api", "", 200); len(r.Ingress) == 0 {
		t.Errorf("%+v", r)
	}
	e := answerOf[explanation](t, s, "GET", "explain?from=203.0.113.0/24&to=deploy/shop/web&port=8080/TCP", "", 200)
	if e.Explanation.Verdict != explain.Allowed || !strings.Contains(e.Text, "shop/web") || len(e.Policies) == 0 || len(e.Policies[0].Lines) == 0 {
		t.Errorf("from a network: %+v", e)
	}
	c := answerOf[changed](t, s, "POST", "whatif", `{"delete": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "db"}]}`, 200)
	if len(c.Diff.Closed) == 0 || !strings.Contains(c.Text, "CLOSED") {
		t.Errorf("%+v", c)
	}
	for question, want := range map[string]string{
		"GET map?open=none": "none", "GET map?port=http": "name", "GET reach?target=": "target", "GET reach?target=deploy/shop/none": "none", "GET explain?from=shop/web-1": "from and to",
		"GET matrix?namespace=none": "none", "GET policy?name=none": "no such policy", "POST whatif {": "change", `POST whatif {"apply": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelektor: {}}"}`: "podSelektor",
		`POST whatif {"delete": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "none"}]}`: "none",
	} {
		method, rest, _ := strings.Cut(question, " ")
		path, body, _ := strings.Cut(rest, " ")
		if f := answerOf[failure](t, s, method, path, body, 400); !strings.Contains(f.Error, want) {
			t.Errorf("%s: the error is %q, and has no %q", question, f.Error, want)
		}
	}
	if f := answerOf[failure](t, s, "GET", "flows", "", 404); f.Error != "no agents" {
		t.Errorf("flows: %+v", f)
	}
}

// TestTooLarge: a change is read up to a limit, and its error says so.
func TestTooLarge(t *testing.T) {
	s := server(t)
	body := `{"delete": [], "apply": "` + strings.Repeat(" ", maxBody) + `"}`
	if f := answerOf[failure](t, s, "POST", "whatif", body, 400); !strings.Contains(f.Error, "too large") {
		t.Errorf("it says %q", f.Error)
	}
	// As much as is allowed is read.
	body = `{"delete": [], "apply": "` + strings.Repeat(" ", maxBody-100) + `"}`
	if c := answerOf[changed](t, s, "POST", "whatif", body, 200); len(c.Diff.Opened)+len(c.Diff.Closed) != 0 {
		t.Errorf("%+v", c)
	}
}

// TestNothingIsWritten: a change that was asked about leaves what was read as it was, for those who ask next.
func TestNothingIsWritten(t *testing.T) {
	s := server(t)
	all := func() (text string) {
		for _, path := range []string{"policies", "matrix", "map?open=shop&open=batch&unfenced=1", "explain?from=deploy/shop/web&to=sts/shop/db"} {
			text += request(t, s, "GET", "/"+s.token+"/api/"+path, nil).Body.String()
		}
		return text
	}
	before := all()
	for _, body := range []string{
		`{"delete": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "default-deny"}, {"kind": "NetworkPolicy", "namespace": "shop", "name": "web"}]}`,
		`{"apply": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}"}`,
	} {
		if c := answerOf[changed](t, s, "POST", "whatif", body, 200); len(c.Diff.Opened) == 0 {
			t.Errorf("nothing is opened by %s", body)
		}
	}
	if after := all(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestLines: where fields are written in the YAML of a policy.
func TestLines(t *testing.T) {
	text := map[string]markedPolicy{}
	for _, p := range policiesOf(read(t).Cluster) {
		p.YAML = p.yaml()
		text[p.Name] = markedPolicy{policyText: p}
	}
	for _, c := range []struct{ policy, path, want string }{
		{"web", "spec.podSelector", "podSelector:|matchLabels:|app: web"},
		{"web", "spec.policyTypes", "policyTypes:|- Ingress|- Egress"},
		{"web", "spec.egress", "egress:|- ports:|- port: 8080|protocol: TCP|to:|- podSelector:|matchLabels:|app: api"},
		{"web", "spec.egress[0]", "- ports:|- port: 8080|protocol: TCP|to:|- podSelector:|matchLabels:|app: api"},
		{"web", "spec.egress[0].to[0]", "- podSelector:|matchLabels:|app: api"},
		{"web", "spec.egress[0].to", "to:|- podSelector:|matchLabels:|app: api"},
		{"web", "spec.egress[0].ports[0]", "- port: 8080|protocol: TCP"},
		{"web", "spec.ingress[0].from[0]", "- ipBlock:|cidr: 0.0.0.0/0|except:|- 198.51.100.0/24"},
		{"web", "spec.ingress[0].from[0].ipBlock.except[0]", "- 198.51.100.0/24"},
		{"web", "spec.egress[0].ports[0].protocol", "protocol: TCP"},
		{"default-deny", "spec.podSelector", "podSelector: {}"},
		{"default-deny", "spec.policyTypes", "policyTypes:|- Ingress|- Egress"},
		{"db", "spec.policyTypes[0]", "- Ingress"}, // on the text's last line
		// For what is not written, the nearest field around it is.
		{"web", "spec.egress[0].to[0].namespaceSelector", "- podSelector:|matchLabels:|app: api"},
		{"default-deny", "spec.policyTypes[5]", "policyTypes:|- Ingress|- Egress"},
		{"none", "spec.podSelector", ""},
	} {
		p := text[c.policy]
		from, to, is := p.lines(c.path)
		var got []string
		for i := from; is && i <= to; i++ {
			got = append(got, strings.TrimSpace(strings.Split(p.YAML, "\n")[i-1]))
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s, %s: lines %d to %d are %q, want %q in\n%s", c.policy, c.path, from, to, got, c.want, p.YAML)
		}
	}
}

// TestText: the text of a policy is what its author has written, without what the API server keeps beside it.
func TestText(t *testing.T) {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "a", UID: "u-1", ResourceVersion: "7", Generation: 3, CreationTimestamp: metav1.Now(),
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}, Labels: map[string]string{"team": "web"},
		Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}"},
	}}
	text := func() string {
		return policyText{Kind: "NetworkPolicy", Namespace: "shop", Name: "a", object: np}.yaml()
	}
	want := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  labels:\n    team: web\n  name: a\n  namespace: shop\nspec:\n  podSelector: {}\n"
	if got := text(); got != want {
		t.Errorf("it is\n%s, want\n%s", got, want)
	}
	np.Annotations["why"] = "because"
	if got, want := text(), strings.Replace(want, "  labels:", "  annotations:\n    why: because\n  labels:", 1); got != want {
		t.Errorf("it is\n%s, want\n%s", got, want)
	}
	if np.ResourceVersion != "7" || np.Annotations[corev1.LastAppliedConfigAnnotation] != "{}" {
		t.Error("the object itself was changed")
	}
}

// TestReadOnce: those who ask while objects are read wait for the same; what was read before stays if it fails.
func TestReadOnce(t *testing.T) {
	var reads atomic.Int32
	fails := false
	begun, goOn := make(chan bool, 100), make(chan bool)
	b := backend(t)
	b.Read = func(context.Context) (*Objects, error) {
		reads.Add(1)
		begun <- true
		<-goOn
		if fails {
			return nil, errors.New("the API server is away")
		}
		return read(t), nil
	}
	s := &Server{backend: &b, world: newWorld(&b), token: newToken()}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if m, err := s.world.current(t.Context()); err != nil || m.generation != 1 {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	<-begun
	time.Sleep(50 * time.Millisecond) // the others ask meanwhile
	close(goOn)
	group.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("read %d times", n)
	}
	fails = true
	if f := answerOf[failure](t, s, "POST", "read", "", 502); !strings.Contains(f.Error, "away") || !strings.Contains(f.Error, "the shop") {
		t.Errorf("%+v", f)
	}
	if st := answerOf[state](t, s, "GET", "state", "", 200); st.Generation != 1 {
		t.Errorf("after a failure: %+v", st)
	}
}

// TestReadAgainOnce: those who ask for the objects to be read again while they are read wait for the same.
func TestReadAgainOnce(t *testing.T) {
	var reads atomic.Int32
	b := backend(t)
	begun, goOn := make(chan bool, 100), make(chan bool)
	b.Read = func(context.Context) (*Objects, error) {
		if reads.Add(1) > 1 {
			begun <- true
			<-goOn
		}
		return read(t), nil
	}
	s := &Server{backend: &b, world: newWorld(&b), token: newToken()}
	if err := s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { answerOf[state](t, s, "POST", "read", "", 200) })
	}
	<-begun
	time.Sleep(50 * time.Millisecond)
	close(goOn)
	group.Wait()
	if n := reads.Load(); n > 3 { // those who come after it has begun may want another
		t.Errorf("read %d times", n)
	}
}

// TestFlowLines: flows and what is said of agents come as lines, each at once, with the query that was asked; and the
// agents are left when whoever asks has gone.
func TestFlowLines(t *testing.T) {
	left, asked := make(chan bool), make(chan flows.Query, 1)
	b := backend(t)
	b.Observe = func(ctx context.Context, q flows.Query, each func(*flows.Flow) error, say func(string)) error {
		asked <- q
		say("node-2: no answer")
		if err := each(&flows.Flow{Node: "node-1", Verdict: flows.Denied}); err != nil {
			return err
		}
		<-ctx.Done()
		close(left)
		return nil
	}
	s := &Server{backend: &b, world: newWorld(&b), token: newToken()}
	h := httptest.NewServer(s.Handler())
	defer h.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", h.URL+"/"+s.token+"/api/flows?namespace=shop&verdict=denied", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := h.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != flows.MediaType {
		t.Fatalf("%s, %s", answer.Status, answer.Header.Get("Content-Type"))
	}
	if q := <-asked; !q.Follow || q.Last != 100 || len(q.Namespaces) != 1 {
		t.Errorf("asked for %+v", q)
	}
	var lines []told
	for scanner := bufio.NewScanner(answer.Body); len(lines) < 2 && scanner.Scan(); {
		if scanner.Text() == "" {
			continue
		}
		var line told
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if len(lines) != 2 || lines[0].Note != "node-2: no answer" || lines[1].Flow == nil || lines[1].Flow.Node != "node-1" {
		t.Errorf("%+v", lines)
	}
	cancel()
	<-left
	if w := request(t, s, "GET", "/"+s.token+"/api/flows?verdikt=denied", nil); w.Code != 400 {
		t.Errorf("a parameter that is none: %d", w.Code)
	}
}
