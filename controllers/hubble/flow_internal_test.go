package hubble

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/podfence/podfence/api/flows"
)

// wanted reads a flow of Hubble's, as hubble observe -o json prints it.
func wanted(t *testing.T, text string) *flowpb.Flow {
	t.Helper()
	f := &flowpb.Flow{}
	if err := protojson.Unmarshal([]byte(text), f); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestEvents: what Hubble is told of a denial, of a connection and of a spoofed packet.
func TestEvents(t *testing.T) {
	c := newConverter("node-1", "v1")
	web, db := identity(&denied(0).Source), identity(&denied(0).Destination)
	if web == db {
		t.Fatalf("two workloads have one identity, %d", web)
	}
	denial := `"time": "2026-03-01T12:00:00Z", "emitter": {"name": "podfence", "version": "v1"}, "Type": "L3_L4", "node_name": "node-1",
		"verdict": "DROPPED", "drop_reason": 133, "drop_reason_desc": "POLICY_DENIED", "is_reply": false, "traffic_direction": "INGRESS",
		"IP": {"source": "10.244.2.3", "destination": "10.244.1.7", "ipVersion": "IPv4"},
		"l4": {"TCP": {"source_port": 40000, "destination_port": 5432, "flags": {"SYN": true}}},
		"source": {"identity": WEB, "cluster_name": "default", "namespace": "shop", "pod_name": "web-0", "workloads": [{"kind": "Deployment", "name": "web"}],
			"labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "k8s:pod-template-hash=77"]},
		"destination": {"identity": DB, "cluster_name": "default", "namespace": "shop", "pod_name": "db-0", "workloads": [{"kind": "StatefulSet", "name": "db"}],
			"labels": ["k8s:app=db", "k8s:io.kubernetes.pod.namespace=shop"]},
		"ingress_denied_by": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "db", "labels": ["podfence:tier=NetworkPolicy"]}],
		"Summary": "TCP Flags: SYN; no rule allows it"`
	connection := `"time": "2026-03-01T12:00:00Z", "emitter": {"name": "podfence", "version": "v1"}, "Type": "L3_L4", "node_name": "node-1",
		"verdict": "FORWARDED", "is_reply": false, "traffic_direction": "EGRESS",
		"IP": {"source": "fd00::3", "destination": "2001:db8::1", "ipVersion": "IPv6"},
		"l4": {"UDP": {"source_port": 40000, "destination_port": 53}},
		"source": {"identity": WEB, "cluster_name": "default", "namespace": "shop", "pod_name": "web-0", "workloads": [{"kind": "Deployment", "name": "web"}],
			"labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "k8s:pod-template-hash=77"]},
		"destination": {"identity": 2, "labels": ["reserved:world"]}, "destination_names": ["a.b.example.com"],
		"egress_allowed_by": [{"kind": "ClusterNetworkPolicy", "name": "dns", "labels": ["podfence:tier=Admin", "podfence:rule=2", "podfence:rule-name=out"]}],
		"Summary": "UDP"`
	staged, allowing := *denied(0), *denied(0)
	staged.Verdict, allowing.Verdict = flows.WouldDeny, flows.WouldAllow
	audit := strings.NewReplacer(`"verdict": "DROPPED", "drop_reason": 133, "drop_reason_desc": "POLICY_DENIED"`, `"verdict": "AUDIT"`).Replace(denial)
	for name, one := range map[string]struct {
		flow *flows.Flow
		want []string
	}{
		"would be denied":  {&staged, []string{`{` + audit + `, "event_type": {"type": 5}}`}},
		"would be allowed": {&allowing, nil},
		"denied": {denied(0), []string{
			`{` + denial + `, "event_type": {"type": 5}}`,
			`{` + denial + `, "event_type": {"type": 1, "sub_type": 133}}`,
		}},
		"allowed": {allowed(0), []string{
			`{` + connection + `, "event_type": {"type": 5}, "policy_match_type": 2}`,
			`{` + connection + `, "event_type": {"type": 4, "sub_type": 3}, "trace_observation_point": "TO_STACK", "trace_reason": "NEW"}`,
		}},
		"spoofed": {spoofed(0), []string{`{"time": "2026-03-01T12:00:00Z", "emitter": {"name": "podfence", "version": "v1"}, "Type": "L3_L4", "node_name": "node-1",
			"verdict": "DROPPED", "drop_reason": 132, "drop_reason_desc": "INVALID_SOURCE_IP", "event_type": {"type": 1, "sub_type": 132},
			"IP": {"source": "192.0.2.9", "destination": "10.244.3.3", "ipVersion": "IPv4"}, "l4": {"ICMPv4": {"type": 8}},
			"source": {"identity": 2, "labels": ["reserved:world"]},
			"destination": {"identity": DNS, "cluster_name": "default", "namespace": "kube-system", "pod_name": "dns-0", "labels": ["k8s:io.kubernetes.pod.namespace=kube-system", "k8s:k8s-app=kube-dns"]},
			"Summary": "ICMP type 8 code 0; no rule allows it"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			var want []*flowpb.Flow
			for _, text := range one.want {
				want = append(want, wanted(t, strings.NewReplacer("WEB", number(web), "DB", number(db), "DNS", number(identity(&spoofed(0).Destination))).Replace(text)))
			}
			have := c.events(one.flow, 7)
			if diff := cmp.Diff(want, have, protocmp.Transform(), protocmp.IgnoreFields(&flowpb.Flow{}, "uuid")); diff != "" {
				t.Errorf("want -, have +:\n%s", diff)
			}
		})
	}
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// TestReasonsAreAllSaid: Hubble has a reason for each that podfence has, and reads it as a denial.
func TestReasonsAreAllSaid(t *testing.T) {
	c := newConverter("node-1", "v1")
	for _, reason := range flows.Reasons {
		f := denied(0)
		f.Reason = reason
		for _, h := range c.events(f, 1) {
			if h.GetDropReasonDesc() == flowpb.DropReason_DROP_REASON_UNKNOWN || h.GetVerdict() != flowpb.Verdict_DROPPED {
				t.Errorf("%s is told as %s, %s", reason, h.GetVerdict(), h.GetDropReasonDesc())
			}
		}
		if of := len(c.events(f, 1)); (of == 2) != (reason == flows.DefaultDeny || reason == flows.ByRule) {
			t.Errorf("%s is told by %d events", reason, of)
		}
	}
}

// TestUUIDs: an event has the same one whenever it is told, and no other has it.
func TestUUIDs(t *testing.T) {
	c := newConverter("node-1", "v1")
	seen := map[string]bool{}
	for n := range uint64(100) {
		for i, event := range c.events(denied(0), n) {
			if again := c.events(denied(0), n)[i].GetUuid(); again != event.GetUuid() || seen[again] {
				t.Fatalf("event %d of flow %d has %s, then %s", i, n, event.GetUuid(), again)
			}
			seen[event.GetUuid()] = true
		}
	}
	if other := newConverter("node-1", "v1").events(denied(0), 1)[0].GetUuid(); seen[other] {
		t.Errorf("another start of the agent tells a flow with the UUID %s of this one's", other)
	}
}

// TestEndpoints: who is a pod, a node, or outside.
func TestEndpoints(t *testing.T) {
	c := newConverter("node-1", "v1")
	addr := netip.MustParseAddr("10.0.0.1")
	for name, one := range map[string]struct {
		end  flows.Endpoint
		why  flows.Reason
		on   flows.Direction
		want string
	}{
		"outside":             {flows.Endpoint{IP: addr}, flows.DefaultDeny, flows.Egress, "reserved:world"},
		"this node":           {flows.Endpoint{IP: addr, Node: "node-1"}, flows.DefaultDeny, flows.Egress, "reserved:host"},
		"another node":        {flows.Endpoint{IP: addr, Node: "node-2"}, flows.DefaultDeny, flows.Egress, "reserved:remote-node"},
		"an unknown pod":      {flows.Endpoint{IP: addr}, flows.UnknownPod, flows.Egress, "reserved:unmanaged"},
		"maybe one":           {flows.Endpoint{IP: addr}, flows.UnknownPod, "", "reserved:unmanaged"},
		"to an unknown pod":   {flows.Endpoint{IP: addr}, flows.UnknownPod, flows.Ingress, "reserved:world"},
		"a pod of no labels":  {flows.Endpoint{IP: addr, Namespace: "a", Pod: "b"}, flows.DefaultDeny, flows.Egress, "k8s:io.kubernetes.pod.namespace=a"},
		"a pod, unknown peer": {flows.Endpoint{IP: addr, Namespace: "a", Pod: "b"}, flows.UnknownPod, flows.Egress, "k8s:io.kubernetes.pod.namespace=a"},
	} {
		f := denied(0)
		f.Source, f.Reason, f.Direction = one.end, one.why, one.on
		if have := c.events(f, 1)[0].GetSource().GetLabels(); !slices.Equal(have, []string{one.want}) {
			t.Errorf("%s: %v, want %s", name, have, one.want)
		}
	}
}

// TestIdentities: pods of one workload have one, whatever differs between them; other labels or another
// namespace make another one; all are in Cilium's range for pods.
func TestIdentities(t *testing.T) {
	pod := func(namespace string, labels ...string) flows.Endpoint {
		e := flows.Endpoint{Namespace: namespace, Pod: "p", Labels: map[string]string{}}
		for _, label := range labels {
			key, value, _ := strings.Cut(label, "=")
			e.Labels[key] = value
		}
		return e
	}
	base := pod("shop", "app=web", "tier=front")
	for _, same := range []flows.Endpoint{
		pod("shop", "tier=front", "app=web"), pod("shop", "app=web", "tier=front", "pod-template-hash=1"),
		pod("shop", "app=web", "tier=front", "statefulset.kubernetes.io/pod-name=web-1", "controller-revision-hash=3"),
	} {
		if identity(&same) != identity(&base) {
			t.Errorf("%v has another identity than %v", same.Labels, base.Labels)
		}
	}
	seen := map[uint32]bool{identity(&base): true}
	for _, other := range []flows.Endpoint{pod("shop", "app=web"), pod("shop"), pod("test", "app=web", "tier=front"), pod("shop", "app=webtier", "=front"), pod("shop", "app=tier", "web=front")} {
		id := identity(&other)
		if seen[id] || id < firstIdentity || id > lastIdentity {
			t.Errorf("%s %v has the identity %d, which another has or is out of range", other.Namespace, other.Labels, id)
		}
		seen[id] = true
	}
}

// TestSummaries: a line says in words what Hubble has no field for.
func TestSummaries(t *testing.T) {
	for want, change := range map[string]func(*flows.Flow){
		"TCP Flags: SYN; no rule allows it; nearly allowed: rule 2, but for its port": func(f *flows.Flow) { f.NearestMiss = "rule 2, but for its port" },
		"TCP Flags: SYN, ACK; no rule allows it":                                      func(f *flows.Flow) { f.TCPFlags = "SYN,ACK" },
		"TCP; no rule allows it; 41 more packets like the first":                      func(f *flows.Flow) { f.TCPFlags, f.Repeats = "", 41 },
		"TCP Flags: SYN; no rule allows it; 192.0.2.1 port 80 was asked for": func(f *flows.Flow) {
			f.Asked = &flows.Asked{IP: netip.MustParseAddr("192.0.2.1"), Port: 80}
		},
		"TCP; ended after 12 packets, 3400 bytes; one of 10 such flows": func(f *flows.Flow) {
			*f = flows.Flow{Event: flows.Ended, Verdict: flows.Allowed, Protocol: "TCP", Packets: 12, Bytes: 3400, SampledOf: 10}
		},
		"47": func(f *flows.Flow) { *f = flows.Flow{Protocol: "47"} },
	} {
		f := denied(0)
		change(f)
		if have := summary(f); have != want {
			t.Errorf("%q, want %q", have, want)
		}
	}
}

// TestAggregates: a summary of a denied flow says how many packets it stands for, also more than fit.
func TestAggregates(t *testing.T) {
	c := newConverter("node-1", "v1")
	f := denied(0)
	f.Repeats = 1 << 40
	if have := c.events(f, 1)[0].GetAggregate(); have.GetIngressFlowCount() != 1<<32-1 || have.GetEgressFlowCount() != 0 {
		t.Errorf("%v", have)
	}
	f.Repeats = 0
	if have := c.events(f, 1)[0].GetAggregate(); have != nil {
		t.Errorf("a single packet is told as %v", have)
	}
}

// TestEnded: the end of a connection is no verdict of a policy.
func TestEnded(t *testing.T) {
	f := allowed(0)
	f.Event, f.Direction, f.Destination.Pod = flows.Ended, flows.Ingress, "p"
	have := newConverter("node-1", "v1").events(f, 1)
	if len(have) != 1 || have[0].GetTraceReason() != flowpb.TraceReason_ESTABLISHED || have[0].GetTraceObservationPoint() != flowpb.TraceObservationPoint_TO_ENDPOINT {
		t.Errorf("it is told as %v", have)
	}
}
