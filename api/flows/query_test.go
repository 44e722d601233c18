package flows_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/flows"
)

// denial is a flow that every field of a filter can be held against.
func denial() *flows.Flow {
	return &flows.Flow{
		Time: time.Unix(1000, 0), Verdict: flows.Denied, Direction: flows.Egress, Protocol: "TCP", Reason: flows.DefaultDeny,
		Source:      flows.Endpoint{IP: netip.MustParseAddr("10.1.0.1"), Port: 40000, Namespace: "shop", Pod: "web-0", Workload: &flows.Workload{Kind: "Deployment", Name: "web"}},
		Destination: flows.Endpoint{IP: netip.MustParseAddr("10.2.0.1"), Port: 5432, Namespace: "data", Pod: "db-0", Workload: &flows.Workload{Kind: "StatefulSet", Name: "db"}},
		Asked:       &flows.Asked{IP: netip.MustParseAddr("10.96.0.7"), Port: 80, Namespace: "data", Service: "db"},
		Policies:    []flows.Policy{{Kind: "NetworkPolicy", Namespace: "shop", Name: "web-egress"}},
	}
}

// TestFilter: each parameter holds for the flows that it names, for no others, and all of them must hold.
func TestFilter(t *testing.T) {
	for _, c := range []struct{ holds, not string }{
		{"verdict=denied", "verdict=allowed"},
		{"verdict=would-deny&verdict=denied", "verdict=would-deny&verdict=would-allow"},
		{"direction=egress", "direction=ingress"},
		{"namespace=shop", "namespace=web"},
		{"namespace=data", "namespace=d"},
		{"pod=shop/web-0", "pod=shop/web"},
		{"pod=data/db-0", "pod=shop/db-0"},
		{"pod=data/*", "pod=other/*"},
		{"pod=Deployment/shop/web", "pod=StatefulSet/shop/web"},
		{"pod=Service/data/db", "pod=Service/shop/db"},
		{"ip=10.1.0.1", "ip=10.1.0.2"},
		{"ip=10.96.0.0/16", "ip=10.97.0.0/16"},
		{"pod=shop/none&ip=10.2.0.0/16", "pod=shop/none&ip=10.3.0.0/16"},
		{"from=shop/web-0", "from=data/db-0"},
		{"from=10.1.0.0/24", "from=10.96.0.7"},
		{"to=StatefulSet/data/db", "to=Deployment/shop/web"},
		{"to=10.96.0.7", "to=10.1.0.1"},
		{"to=Service/data/db", "from=Service/data/db"},
		{"from=shop/none&from=shop/web-0", "from=shop/none&from=shop/other"},
		{"port=5432", "port=40000"},
		{"port=80", "port=8080"},
		{"port=1&port=80", "port=1&port=2"},
		{"protocol=tcp", "protocol=UDP"},
		{"reason=default-deny", "reason=rule"},
		{"policy=web-egress", "policy=web"},
		{"policy=shop/web-egress", "policy=data/web-egress"},
		{"namespace=shop&port=80", "namespace=shop&port=81"},
		{"", "to=Node//node-1"},
	} {
		for text, want := range map[string]bool{c.holds: true, c.not: false} {
			values, err := url.ParseQuery(text)
			if err != nil {
				t.Fatal(err)
			}
			q, err := flows.ParseQuery(values, time.Now())
			if err != nil {
				t.Errorf("%s: %v", text, err)
			} else if q.Match(denial()) != want {
				t.Errorf("%s holds: %t", text, !want)
			}
		}
	}
	node := &flows.Flow{Destination: flows.Endpoint{Node: "node-1"}}
	if f := (flows.Filter{To: []flows.End{{Kind: "Node", Name: "node-1"}}}); !f.Match(node) {
		t.Error("a node is not found")
	}
	if f := (flows.Filter{Ends: []flows.End{{Namespace: ""}}}); f.Match(node) {
		t.Error("what is no pod's is taken for a pod of a namespace without a name")
	}
}

// TestQueryIsRefused: what is not understood is refused, as more would be told than was asked for.
func TestQueryIsRefused(t *testing.T) {
	for text, says := range map[string]string{
		"namspace=shop": `no parameter "namspace"`, "verdict=drop": "verdict", "verdict=denied&verdict=": "verdict", "verdict=denied,allowed": "verdict", "direction=ingress&direction=egress": "direction", "direction=in": "direction",
		"pod=web": "KIND/NAMESPACE/NAME", "pod=10.1.0.1": "by ip", "ip=shop/web": "by pod", "ip=": "ip", "from=a/b/c/d": "from", "to=/x": "to", "to=Node/shop/x": "to", "to=Deployment//x": "to",
		"port=0": "port", "port=65536": "port", "port=http": "port", "reason=why": "reason", "protocol=": "protocol", "policy=": "policy", "namespace=": "namespace",
		"last=-1": "last", "last=x": "last", "last=1&last=2": "2 times", "since=yesterday": "since", "since=-5m": "since", "follow=maybe": "follow",
		strings.Repeat("port=1&", 257) + "port=2": "258 times",
	} {
		values, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := flows.ParseQuery(values, time.Now()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, %+v", text, err, q)
		}
	}
}

func TestSince(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{"5m": now.Add(-5 * time.Minute), "0s": now, "2026-01-31T11:00:00Z": now.Add(-time.Hour), "2026-01-31T13:00:00.5+01:00": now.Add(time.Second / 2)} {
		if got, err := flows.ParseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	q := flows.Query{Since: time.Unix(1000, 0)}
	if !q.WantsKept(denial()) {
		t.Error("a flow of that very moment is left out")
	}
	if q.Since = q.Since.Add(1); q.WantsKept(denial()) {
		t.Error("a flow before it is told")
	}
}

// TestQueryIsWrittenAndRead: what is asked is what is answered, whatever it is.
func TestQueryIsWrittenAndRead(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func(what func()) {
		for range random.IntN(3) {
			what()
		}
	}
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	end := func() flows.End {
		e, err := flows.ParseEnd(pick("10.0.0.1", "10.0.0.0/8", "fd00::1", "fd00::/64", "shop/web", "shop/*", "Deployment/shop/web", "Service/a/b", "Node//n.example"))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for range 2000 {
		q := flows.Query{Last: random.IntN(3) - 1, Follow: random.IntN(2) == 0}
		some(func() { q.Verdicts = append(q.Verdicts, flows.Verdicts[random.IntN(len(flows.Verdicts))]) })
		q.Direction = flows.Direction(pick("", "ingress", "egress"))
		some(func() { q.Namespaces = append(q.Namespaces, pick("shop", "data")) })
		var pods, networks []flows.End
		some(func() {
			if e := end(); e.Network.IsValid() {
				networks = append(networks, e)
			} else {
				pods = append(pods, e)
			}
		})
		q.Ends = append(networks, pods...) // a query's parameters are read in the order of their names
		some(func() { q.From = append(q.From, end()) })
		some(func() { q.To = append(q.To, end()) })
		some(func() { q.Ports = append(q.Ports, uint16(1+random.IntN(65535))) })
		some(func() { q.Protocols = append(q.Protocols, pick("TCP", "ICMPv6", "47")) })
		some(func() { q.Reasons = append(q.Reasons, flows.Reasons[random.IntN(len(flows.Reasons))]) })
		some(func() { q.Policies = append(q.Policies, pick("a", "shop/a&b=c")) })
		if random.IntN(2) == 0 {
			q.Since = time.Unix(random.Int64N(1e9), random.Int64N(1e9)).UTC()
		}
		values, err := url.ParseQuery(q.Values().Encode())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := flows.ParseQuery(values, time.Now()); err != nil || !reflect.DeepEqual(got, q) {
			t.Fatalf("%s is read as\n%+v instead of\n%+v: %v", values.Encode(), got, q, err)
		}
	}
}

// TestEndsAreWrittenAndRead: forms that are one and the same are read as the same.
func TestEndsAreWrittenAndRead(t *testing.T) {
	for text, want := range map[string]string{"10.1.2.3/8": "10.0.0.0/8", "::ffff:10.0.0.1": "10.0.0.1", "10.0.0.1/32": "10.0.0.1", "FD00::1": "fd00::1"} {
		if e, err := flows.ParseEnd(text); err != nil || e.String() != want {
			t.Errorf("%s is %s, %v", text, e, err)
		}
	}
	for _, text := range []string{"", "*", "a", "fe80::1%eth0", "::ffff:10.0.0.0/104", "10.0.0.0/33", "10.0.0/8", "a/", "/a"} {
		if e, err := flows.ParseEnd(text); err == nil {
			t.Errorf("%q is %s", text, e)
		}
	}
}

func TestWantsAllowed(t *testing.T) {
	for _, c := range []struct {
		filter flows.Filter
		want   bool
	}{
		{flows.Filter{}, true},
		{flows.Filter{Verdicts: []flows.Verdict{flows.Denied, flows.Allowed}}, true},
		{flows.Filter{Verdicts: []flows.Verdict{flows.Denied, flows.WouldDeny, flows.WouldAllow}}, false},
		{flows.Filter{Reasons: []flows.Reason{flows.ByRule}}, false}, // what passes has none
	} {
		q := flows.Query{Filter: c.filter}
		if q.WantsAllowed() != c.want {
			t.Errorf("%+v: %t", c.filter, !c.want)
		}
	}
}

// TestLines: a line is a flow, or how many were missed, or nothing; and else an error.
func TestLines(t *testing.T) {
	text, err := json.Marshal(denial())
	if err != nil {
		t.Fatal(err)
	}
	f, missed, err := flows.ParseLine(text)
	if err != nil || missed != 0 || f == nil || !f.Time.Equal(denial().Time) || f.Asked.Service != "db" {
		t.Errorf("a flow: %+v, %d, %v", f, missed, err)
	}
	if f, missed, err := flows.ParseLine([]byte(`{"missed":7}`)); f != nil || missed != 7 || err != nil {
		t.Errorf("missed: %+v, %d, %v", f, missed, err)
	}
	if f, missed, err := flows.ParseLine(nil); f != nil || missed != 0 || err != nil {
		t.Errorf("an empty line: %+v, %d, %v", f, missed, err)
	}
	for _, text := range []string{"<html>", "{}", `{"verdict":1}`} {
		if f, _, err := flows.ParseLine([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, f)
		}
	}
}
