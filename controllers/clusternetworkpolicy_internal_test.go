package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/logbook"
	"github.com/podfence/podfence/test/recorder"
)

// fullClusterPolicy has all fields that there are.
const fullClusterPolicy = `
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata:
  name: full
  uid: uid
  resourceVersion: "7"
  generation: 3
  labels: {team: net}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  managedFields: [{manager: kubectl}]
  finalizers: [f]
spec:
  tier: Baseline
  priority: 12
  subject: {pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchExpressions: [{key: c, operator: In, values: [d, e]}]}}}
  ingress:
  - name: in
    action: Deny
    from: [{namespaces: {matchLabels: {f: g}}}, {pods: {namespaceSelector: {}, podSelector: {matchLabels: {h: i}}}}]
    protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {destinationNamedPort: http}]
  egress:
  - name: out
    action: Pass
    to: [{nodes: {matchLabels: {j: k}}}, {networks: [10.0.0.0/8, fd00::/8]}]
    protocols: [{sctp: {}}]
  - name: names
    action: Accept
    to: [{domainNames: [example.com]}]
status:
  conditions: [{type: Ready, status: "True", reason: r, message: m, lastTransitionTime: "2026-01-01T00:00:00Z"}]
`

func fullCluster(t *testing.T) *clusterv1beta1.ClusterNetworkPolicy {
	t.Helper()
	cnp := &clusterv1beta1.ClusterNetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(fullClusterPolicy), cnp); err != nil {
		t.Fatal(err)
	}
	return cnp
}

// TestClusterPolicyKeepsWhatIsRead: what is kept of a ClusterNetworkPolicy is read as the whole one
// is, and is no more than that.
func TestClusterPolicyKeepsWhatIsRead(t *testing.T) {
	kept := sameCluster(t, fullCluster(t))
	if kept.UID != "uid" || kept.ResourceVersion != "7" || kept.Generation != 3 {
		t.Errorf("kept is %+v, which does not say which version it is", kept.ObjectMeta)
	}
	if len(kept.Annotations)+len(kept.ManagedFields)+len(kept.Finalizers)+len(kept.Status.Conditions) > 0 {
		t.Errorf("kept is %+v", kept)
	}
}

// sameCluster checks that what is kept of a ClusterNetworkPolicy is read as the whole one is, and
// returns that.
func sameCluster(t *testing.T, cnp *clusterv1beta1.ClusterNetworkPolicy) *clusterv1beta1.ClusterNetworkPolicy {
	t.Helper()
	kept := newClusterPolicySizes().keep(cnp.DeepCopy())
	wanted, problems := policy.ParseCluster(cnp)
	have, alsoProblems := parseClusterPolicy(kept)
	if !reflect.DeepEqual(have, wanted) || !reflect.DeepEqual(alsoProblems, problems) {
		t.Errorf("it is read as\n%+v, %v\nand the whole one as\n%+v, %v", have, alsoProblems, wanted, problems)
	}
	return kept
}

// largeClusterPolicy is a policy with a rule of so many bytes of memory.
func largeClusterPolicy(name string, bytes int, action clusterv1beta1.ClusterNetworkPolicyRuleAction) *clusterv1beta1.ClusterNetworkPolicy {
	cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"a": "b"}}}
	cnp.Spec.Tier, cnp.Spec.Priority = clusterv1beta1.AdminTier, 7
	cnp.Spec.Subject.Namespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	var networks []clusterv1beta1.CIDR
	for i := range bytes / (thingBytes + 17) {
		networks = append(networks, clusterv1beta1.CIDR(fmt.Sprintf("10.%d.%d.0/24", i/256%256, i%256)))
	}
	cnp.Spec.Egress = []clusterv1beta1.ClusterNetworkPolicyEgressRule{{Action: action, To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Networks: networks}}}}
	return cnp
}

// TestClusterPolicySizes: what is kept of ClusterNetworkPolicies has a limit. One that is not kept is
// about the same pods, accepts nothing, and denies everything in a direction in which it denies or
// passes.
func TestClusterPolicySizes(t *testing.T) {
	s := newClusterPolicySizes()
	s.namespace, s.all = 100<<10, 100<<10
	for i := range 8 {
		if s.keep(largeClusterPolicy(fmt.Sprint(i), 10<<10, clusterv1beta1.ClusterNetworkPolicyRuleActionDeny)).Annotations != nil {
			t.Fatalf("the policy %d is not kept", i)
		}
	}
	for action, denies := range map[clusterv1beta1.ClusterNetworkPolicyRuleAction]bool{
		clusterv1beta1.ClusterNetworkPolicyRuleActionAccept: false,
		clusterv1beta1.ClusterNetworkPolicyRuleActionDeny:   true,
		clusterv1beta1.ClusterNetworkPolicyRuleActionPass:   true,
		"Whatever": true,
	} {
		egress := largeClusterPolicy("more", 40<<10, action)
		ingress := largeClusterPolicy("more", 40<<10, action)
		for i := range 200 {
			from := clusterv1beta1.ClusterNetworkPolicyIngressPeer{Namespaces: &metav1.LabelSelector{MatchLabels: map[string]string{"a": fmt.Sprint(i)}}}
			ingress.Spec.Ingress = append(ingress.Spec.Ingress, clusterv1beta1.ClusterNetworkPolicyIngressRule{Action: action, From: []clusterv1beta1.ClusterNetworkPolicyIngressPeer{from}})
		}
		ingress.Spec.Egress = nil
		for d, cnp := range map[policy.Direction]*clusterv1beta1.ClusterNetworkPolicy{policy.Egress: egress, policy.Ingress: ingress} {
			whole, _ := policy.ParseCluster(cnp)
			kept := s.keep(cnp)
			p, problems := parseClusterPolicy(kept)
			if p.Tier != whole.Tier || p.Priority != whole.Priority || *p.Subject != *whole.Subject || len(p.Rules[d.Opposite()]) > 0 {
				t.Errorf("%s, %s: not kept it is read as %+v", action, d, p)
			}
			closed := len(p.Rules[d]) == 1 && p.Rules[d][0].Action == policy.Deny && p.Rules[d][0].AnyPeer && p.Rules[d][0].AnyPort
			if closed != denies || !denies && len(p.Rules[d]) > 0 {
				t.Errorf("%s, %s: not kept it has the rules %+v", action, d, p.Rules[d])
			}
			if len(problems) != 1 || !strings.Contains(problems[0].String(), "ClusterNetworkPolicy more: spec: ClusterNetworkPolicies may take 32 MB") {
				t.Errorf("%s: problems %v", action, problems)
			}
		}
	}
	for i := range 4 {
		s.forget(policy.Key{Name: fmt.Sprint(i)})
	}
	if s.keep(largeClusterPolicy("more", 30<<10, clusterv1beta1.ClusterNetworkPolicyRuleActionDeny)).Annotations != nil {
		t.Error("there is room again")
	}
	wide := largeClusterPolicy("wide", 90<<10, clusterv1beta1.ClusterNetworkPolicyRuleActionDeny)
	for i := range 500 {
		wide.Spec.Subject.Namespaces.MatchLabels[fmt.Sprint("label-", i)] = "value"
	}
	if p, _ := parseClusterPolicy(s.keep(wide)); p.Subject == nil || p.Subject.Namespaces != "" || p.Subject.Pods != "" {
		t.Errorf("a policy whose subject is not kept is about %v", p.Subject)
	}
	for name := range s.sizes[""] {
		s.forget(policy.Key{Name: name})
	}
	if s.total != 0 || len(s.taken)+len(s.sizes) != 0 {
		t.Errorf("left are %d bytes, %v", s.total, s.taken)
	}
}

// watched is a clusterPolicies whose reflector is a test.
func watched(t *testing.T, kind clusterKind) (*clusterPolicies, *logbook.Book) {
	t.Helper()
	s, log := NewSource(), &logbook.Book{}
	s.enforcer = enforcer.New(&recorder.Kernel{}, enforcer.Options{Node: "node"})
	s.report = report.New(report.Options{Node: "node", Log: log.Logger(), Registry: prometheus.NewRegistry()})
	s.report.Of(s.enforcer)
	s.cluster = newClusterPolicies(s, kind, log.Logger())
	s.cluster.version = clusterVersions[0]
	return s.cluster, log
}

func clusterPolicyOf(name, uid, version string) *clusterv1beta1.ClusterNetworkPolicy {
	cnp := largeClusterPolicy(name, 0, clusterv1beta1.ClusterNetworkPolicyRuleActionDeny)
	cnp.UID, cnp.ResourceVersion = types.UID(uid), version
	return cnp
}

// TestClusterPoliciesFeedDifferences: of a list, only what is new is fed, and the end of what is not
// in it. What was fed is noted, for ADDs, and what is kept is counted.
func TestClusterPoliciesFeedDifferences(t *testing.T) {
	c, log := watched(t, clusterKind{})
	expect := func(want ...string) {
		t.Helper()
		var have []string
		for name, version := range c.fed.versions[clusterScope] {
			have = append(have, name+"="+version)
		}
		slices.Sort(have)
		if !slices.Equal(have, want) || c.enforcer.Counts().Policies != len(want) || len(c.kept) != len(want) || len(c.clusterSizes.sizes[""]) != len(want) {
			t.Errorf("fed are %v of %d, kept %d, counted %d, want %v", have, c.enforcer.Counts().Policies, len(c.kept), len(c.clusterSizes.sizes[""]), want)
		}
	}
	feed := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	feed(c.Replace([]any{clusterPolicyOf("a", "1", "1"), clusterPolicyOf("b", "1", "2")}, "2"))
	expect("a=1", "b=2")
	select {
	case <-c.known:
	default:
		t.Error("what there is at the start is not known after a list")
	}
	feed(c.Add(clusterPolicyOf("c", "1", "3")))
	feed(c.Update(clusterPolicyOf("a", "1", "4")))
	feed(c.Delete(clusterPolicyOf("b", "1", "5")))
	feed(c.Delete(clusterPolicyOf("never", "1", "5")))
	expect("a=4", "c=3")
	before := c.policy("a")
	feed(c.Replace([]any{clusterPolicyOf("a", "1", "4"), clusterPolicyOf("c", "2", "3"), clusterPolicyOf("d", "1", "6")}, "6"))
	expect("a=4", "c=3", "d=6")
	if c.policy("a") != before {
		t.Error("a policy that has not changed was fed again")
	}
	if c.policy("c").UID != "2" {
		t.Error("a policy that was made anew was not fed")
	}
	if c.policy("b") != nil || c.Policy(policy.Key{Name: "b"}) != nil {
		t.Error("a policy that is gone is kept")
	}
	c.version = "v1alpha2"
	feed(c.Replace(nil, "7"))
	expect()
	if len(log.With("Watching ClusterNetworkPolicies")) != 2 {
		t.Errorf("the log has %v", log.With(""))
	}
}

// TestClusterPoliciesFeedFields: a policy is fed again if a list has it with other fields, though it has
// not changed, because the definition of its kind has. One whose rules are not kept is not, unless they
// have changed what it denies.
func TestClusterPoliciesFeedFields(t *testing.T) {
	c, log := watched(t, clusterKind{})
	list := func(policies ...any) {
		t.Helper()
		if err := c.Replace(policies, "9"); err != nil {
			t.Fatal(err)
		}
	}
	const deny, accept = clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	large := func(action clusterv1beta1.ClusterNetworkPolicyRuleAction) *clusterv1beta1.ClusterNetworkPolicy {
		cnp := largeClusterPolicy("large", 2*clusterPolicyBytes, action)
		cnp.UID, cnp.ResourceVersion = "uid", "8"
		return cnp
	}
	list(fullCluster(t), large(deny))
	whole, emptied := c.policy("full"), c.policy("large")
	if emptied.Annotations[notKept] == "" {
		t.Fatal("a policy is kept that has no room")
	}
	list(fullCluster(t), large(deny))
	if c.policy("full") != whole || c.policy("large") != emptied {
		t.Error("a policy that is the same was fed again")
	}
	pruned := fullCluster(t)
	pruned.Spec.Egress[0].To[0].Nodes = nil
	list(pruned, large(accept))
	less, opened := c.policy("full"), c.policy("large")
	if less == whole || opened == emptied {
		t.Error("what has other fields was not fed")
	}
	// What is kept does not say it, but what is reported does: it was read as it was listed.
	if len(log.With("spec.egress[0].to[0]: has none of the fields that podfence knows")) != 1 {
		t.Errorf("the log does not say what the policy lacks: %v", log.With(""))
	}
	list(fullCluster(t), large(accept))
	if c.policy("full") == less || c.policy("large") != opened {
		t.Error("not just what has all fields again was fed")
	}
}

// TestFedPolicy: specifications that say different things are packed differently, also where one
// lacks what the other has without anything in it. A list that is empty says what one says that is
// missing. What was packed is there again, whole.
func TestFedPolicy(t *testing.T) {
	packer := newPacker()
	of := func(change func(*clusterv1beta1.ClusterNetworkPolicySpec)) string {
		cnp := fullCluster(t)
		change(&cnp.Spec)
		fed := packer.keep(cnp)
		if whole, err := fed.whole(); err != nil || !apiequality.Semantic.DeepEqual(whole.Spec, cnp.Spec) || whole.UID != cnp.UID {
			t.Errorf("%v: unpacked is %+v, and not %+v", err, whole, cnp)
		}
		if !reflect.DeepEqual(fed.object.Spec, clusterv1beta1.ClusterNetworkPolicySpec{}) {
			t.Errorf("the specification is kept twice: %+v", fed.object.Spec)
		}
		return string(fed.spec)
	}
	same := of(func(*clusterv1beta1.ClusterNetworkPolicySpec) {})
	for name, change := range map[string]func(*clusterv1beta1.ClusterNetworkPolicySpec){
		"priority": func(s *clusterv1beta1.ClusterNetworkPolicySpec) { s.Priority++ },
		"tier":     func(s *clusterv1beta1.ClusterNetworkPolicySpec) { s.Tier = "Other" },
		"subject": func(s *clusterv1beta1.ClusterNetworkPolicySpec) {
			s.Subject = clusterv1beta1.ClusterNetworkPolicySubject{}
		},
		"all namespaces": func(s *clusterv1beta1.ClusterNetworkPolicySpec) {
			s.Subject = clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}
		},
		"order": func(s *clusterv1beta1.ClusterNetworkPolicySpec) { slices.Reverse(s.Egress) },
		"name":  func(s *clusterv1beta1.ClusterNetworkPolicySpec) { s.Egress[0].Name = "other" },
		"peers": func(s *clusterv1beta1.ClusterNetworkPolicySpec) { s.Egress[0].To = nil },
		"nodes": func(s *clusterv1beta1.ClusterNetworkPolicySpec) { s.Egress[0].To[0].Nodes = nil },
		"all nodes": func(s *clusterv1beta1.ClusterNetworkPolicySpec) {
			s.Egress[0].To[0].Nodes = &metav1.LabelSelector{}
		},
		"protocols": func(s *clusterv1beta1.ClusterNetworkPolicySpec) {
			s.Egress[0].Protocols = []clusterv1beta1.ClusterNetworkPolicyProtocol{{UDP: &clusterv1beta1.ClusterNetworkPolicyProtocolUDP{}}}
		},
	} {
		if of(change) == same {
			t.Errorf("%s: another specification is packed as the same", name)
		}
	}
	if of(func(s *clusterv1beta1.ClusterNetworkPolicySpec) { s.Egress[0].To[0].Networks = []clusterv1beta1.CIDR{} }) != same {
		t.Error("an empty list makes a difference")
	}
}

// TestClusterPolicyIsFound: by whoever reports of a policy that it is quarantined by now.
func TestClusterPolicyIsFound(t *testing.T) {
	c, _ := watched(t, clusterKind{})
	if c.Policy(policy.Key{Name: "a"}) != nil {
		t.Error("there is a policy before the manager has caches")
	}
	c.cache = noReader{}
	if err := c.Add(clusterPolicyOf("a", "1", "1")); err != nil {
		t.Fatal(err)
	}
	found, is := c.Policy(policy.Key{Name: "a"}).(*clusterv1beta1.ClusterNetworkPolicy)
	if !is || found.APIVersion != "policy.networking.k8s.io/v1beta1" || found.Kind != "ClusterNetworkPolicy" {
		t.Errorf("found %+v", found)
	}
	if !reflect.DeepEqual(found.Spec, clusterv1beta1.ClusterNetworkPolicySpec{}) {
		t.Errorf("of a policy that is in the model this is kept as well: %+v", found.Spec)
	}
	if c.Policy(policy.Key{Name: "b"}) != nil {
		t.Error("found one that is not there")
	}
}

// served is an API server that answers requests for these paths, and says that others are not there.
func served(t *testing.T, answers map[string]string) clusterKind {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, is := answers[r.URL.Path]
		switch {
		case !is:
			http.NotFound(w, r)
		case answer == "":
			http.Error(w, "starting", http.StatusServiceUnavailable)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
		}
	}))
	t.Cleanup(server.Close)
	kind, err := newClusterKind(&rest.Config{Host: server.URL}, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

func group(versions ...string) string {
	of := metav1.APIGroup{TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: clusterGroup}
	for _, version := range versions {
		of.Versions = append(of.Versions, metav1.GroupVersionForDiscovery{GroupVersion: clusterGroup + "/" + version, Version: version})
	}
	text, _ := json.Marshal(of)
	return string(text)
}

// resources is a document of discovery.
func resources(names ...string) string {
	of := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}}
	for _, name := range names {
		of.APIResources = append(of.APIResources, metav1.APIResource{Name: name})
	}
	text, _ := json.Marshal(of)
	return string(text)
}

// TestOffered: other kinds of the group do not count, nor do versions that nobody can read.
func TestOffered(t *testing.T) {
	const path = "/apis/policy.networking.k8s.io"
	for _, c := range []struct {
		name    string
		answers map[string]string
		offered bool
		fails   bool
	}{
		{name: "no such group"},
		{name: "AdminNetworkPolicies", answers: map[string]string{path: group("v1alpha1")}},
		{name: "the best version", answers: map[string]string{path: group("v1", "v1beta1"), path + "/v1beta1": resources("clusternetworkpolicies/status", "clusternetworkpolicies")}, offered: true},
		{name: "the older version", answers: map[string]string{path: group("v1alpha1", "v1alpha2"), path + "/v1alpha2": resources("clusternetworkpolicies")}, offered: true},
		{name: "the older version of it", answers: map[string]string{path: group("v1beta1", "v1alpha2"), path + "/v1beta1": resources("others"), path + "/v1alpha2": resources("clusternetworkpolicies")}, offered: true},
		{name: "a later version", answers: map[string]string{path: group("v1"), path + "/v1": resources("clusternetworkpolicies")}},
		{name: "another kind", answers: map[string]string{path: group("v1beta1"), path + "/v1beta1": resources("others", "clusternetworkpolicies/status")}},
		{name: "a version that is gone by then", answers: map[string]string{path: group("v1beta1")}},
		{name: "no answer", answers: map[string]string{path: ""}, fails: true},
		{name: "no answer of a version", answers: map[string]string{path: group("v1beta1"), path + "/v1beta1": ""}, fails: true},
	} {
		offered, err := served(t, c.answers).offered(t.Context())
		if offered != c.offered || (err != nil) != c.fails {
			t.Errorf("%s: offered is %v, %v", c.name, offered, err)
		}
	}
}

// TestClusterPoliciesAreListedForADDs: nothing is listed of a kind that is not there; if there are
// policies and nobody watches them yet, that begins at once.
func TestClusterPoliciesAreListedForADDs(t *testing.T) {
	const path = "/apis/policy.networking.k8s.io"
	for _, c := range []struct {
		name        string
		answers     map[string]string
		served      string
		noKind, yet bool
		fails       string
	}{
		{name: "no kind", noKind: true},
		{name: "no answer", answers: map[string]string{path: ""}, fails: "whether it has ClusterNetworkPolicies"},
		{name: "offered, and gone by then", answers: map[string]string{path: group("v1beta1"), path + "/v1beta1": resources("clusternetworkpolicies")}, noKind: true, yet: true},
		{name: "watched, and gone by then", served: "v1beta1", noKind: true},
	} {
		p, _ := watched(t, served(t, c.answers))
		p.served = c.served
		l, err := p.list(t.Context(), noReader{})
		if l.noKind != c.noKind || (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) || len(p.look) > 0 != c.yet {
			t.Errorf("%s: %+v, %v, %d", c.name, l, err, len(p.look))
		}
	}
}

// noReader is a reader of an API server that knows no kind.
type noReader struct{ client.Reader }

// List implements client.Reader.
func (noReader) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: clusterGroup, Resource: clusterResource}, "")
}

// TestIsRefused: only what does not pass by itself makes an agent not ready.
func TestIsRefused(t *testing.T) {
	resource := schema.GroupResource{Group: clusterGroup, Resource: clusterResource}
	for _, c := range []struct {
		err     error
		refused bool
	}{
		{nil, false},
		{apierrors.NewForbidden(resource, "", errors.New("no role")), true},
		{apierrors.NewUnauthorized("no token"), true},
		{fmt.Errorf("listing: %w", apierrors.NewBadRequest("no such option")), true},
		{fmt.Errorf("%w: a text is no number", errUnreadable), true},
		{apierrors.NewNotFound(resource, ""), false},
		{apierrors.NewServiceUnavailable("it starts"), false},
		{apierrors.NewInternalError(errors.New("no etcd")), false},
		{apierrors.NewTooManyRequests("busy", 1), false},
		{apierrors.NewResourceExpired("too old"), false},
		{apierrors.NewTimeoutError("slow", 1), false},
		{&url.Error{Op: "Get", Err: io.EOF}, false},
		{context.DeadlineExceeded, false},
	} {
		if isRefused(c.err) != c.refused {
			t.Errorf("%v: refused is %v", c.err, !c.refused)
		}
	}
}
