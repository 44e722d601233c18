package commands

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	gotesting "testing" // the package has a type of that name
	"time"

	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
)

// TestAgentsAreAskedForNames: of a cluster with domain names in its policies, or in those that would be there, the agents are
// asked what these are resolved to. What they do not answer is noted.
func TestAgentsAreAskedForNames(t *gotesting.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		name := answers.Name{Name: "api.example.com", Address: netip.MustParseAddr("203.0.113.7"), PodAddress: netip.MustParseAddr("10.1.0.1"), Expires: time.Unix(100, 0)}
		if err := json.NewEncoder(w).Encode(answers.Names{Node: "node-1", Names: []answers.Name{name}, Lapsed: []answers.Name{name}}); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	cnp := &clusterv1beta1.ClusterNetworkPolicy{Spec: clusterv1beta1.ClusterNetworkPolicySpec{Egress: []clusterv1beta1.ClusterNetworkPolicyEgressRule{{
		Action: clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{DomainNames: []clusterv1beta1.DomainName{"api.example.com"}}},
	}}}}
	named := &explain.Cluster{}
	named.ClusterPolicies = append(named.ClusterPolicies, cnp)
	for _, test := range []struct {
		name          string
		cluster       explain.Cluster
		after         *explain.Cluster
		given         map[string][]netip.Addr
		more          []string
		asked, notes  int
		known, answer bool
	}{
		{name: "names", cluster: explain.Cluster{Running: true, Snapshot: named.Snapshot}, asked: 1, known: true, answer: true},
		{name: "names after a change", cluster: explain.Cluster{Running: true}, after: named, asked: 1, known: true, answer: true},
		{name: "one agent does not answer", cluster: explain.Cluster{Running: true, Snapshot: named.Snapshot}, more: []string{"127.0.0.1:1"}, asked: 1, notes: 1, answer: true},
		{name: "no names", cluster: explain.Cluster{Running: true}},
		{name: "files", cluster: explain.Cluster{Snapshot: named.Snapshot}},
		{name: "given", cluster: explain.Cluster{Running: true, Snapshot: named.Snapshot}, given: map[string][]netip.Addr{"api.example.com": nil}},
	} {
		asked = 0
		o := &objects{Cluster: &test.cluster}
		var after []*explain.Cluster
		if test.after != nil {
			after = append(after, test.after)
		}
		a := &asking{addresses: append([]string{strings.TrimPrefix(server.URL, "http://")}, test.more...), timeout: 5 * time.Second}
		(&resolving{addrs: test.given}).ask(t.Context(), nil, a, o, nil, after...)
		if asked != test.asked || len(o.notes) != test.notes || o.NamesKnown != test.known || (len(o.Resolutions) == 1 && len(o.Lapsed) == 1) != test.answer {
			t.Errorf("%s: asked %d times; notes %v, known %t, %v", test.name, asked, o.notes, o.NamesKnown, o.Resolutions)
		}
	}
}
