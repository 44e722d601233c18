package hubble

import (
	"slices"
	"strings"
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/podfence/podfence/api/flows"
)

// filterOf reads a filter, as hubble observe --print-raw-filters prints it.
func filterOf(t *testing.T, text string) *flowpb.FlowFilter {
	t.Helper()
	f := &flowpb.FlowFilter{}
	if err := protojson.Unmarshal([]byte(text), f); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return f
}

// seen are flows to filter, each by the last of its events.
func seen() map[string]*flowpb.Flow {
	c := newConverter("node-1", "v1")
	toService := denied(0)
	toService.Asked = &flows.Asked{Namespace: "shop", Service: "db", Port: 5432}
	toService.Node = "node-2.example.com"
	all := map[string]*flowpb.Flow{}
	for name, f := range map[string]*flows.Flow{"denied": denied(0), "allowed": allowed(0), "spoofed": spoofed(0), "service": toService} {
		events := c.events(f, 1)
		all[name] = events[len(events)-1]
		if name == "denied" {
			all["verdict"] = events[0]
		}
	}
	all["denied"].Uuid = "the-uuid"
	return all
}

// matches are, for each filter, the flows that have what it asks for.
var matches = []struct{ filter, want string }{
	{`{"uuid": ["the-uuid", "another"]}`, "denied"},
	{`{"source_ip": ["10.244.2.3"]}`, "denied service verdict"},
	{`{"source_ip": ["10.244.2.4"]}`, ""},
	{`{"source_ip": ["fd00::/8"]}`, "allowed"},
	{`{"source_ip": ["FD00:0::3"]}`, "allowed"},
	{`{"source_ip": ["::ffff:192.0.2.9", "fd00::/8"]}`, "allowed spoofed"},
	{`{"destination_ip": ["10.244.0.0/16"]}`, "denied service spoofed verdict"},
	{`{"source_pod": ["shop/web"]}`, "allowed denied service verdict"},
	{`{"source_pod": ["shop/web-01"]}`, ""},
	{`{"source_pod": ["test/web-0"]}`, ""},
	{`{"source_pod": ["web-0"]}`, ""}, // of the namespace default
	{`{"source_pod": ["/web-0"]}`, "allowed denied service verdict"},
	{`{"destination_pod": ["kube-system/", "other/"]}`, "spoofed"},
	{`{"source_label": ["app=web"]}`, "allowed denied service verdict"},
	{`{"source_label": ["k8s:app=web"]}`, "allowed denied service verdict"},
	{`{"source_label": ["reserved:app=web"]}`, ""},
	{`{"source_label": ["app in (api, web), io.kubernetes.pod.namespace = shop"]}`, "allowed denied service verdict"},
	{`{"source_label": ["k8s:app notin (web),k8s:app"]}`, ""},
	{`{"source_label": ["!app"]}`, "spoofed"},
	{`{"source_label": ["reserved:world"]}`, "spoofed"},
	{`{"destination_label": ["k8s-app=kube-dns", "reserved:world"]}`, "allowed spoofed"},
	{`{"destination_label": ["app!=db"]}`, "allowed spoofed"},
	{`{"destination_service": ["shop/db"]}`, "service"},
	{`{"destination_service": ["shop/", "test/"]}`, "service"},
	{`{"destination_service": ["db"]}`, ""},
	{`{"source_workload": [{"kind": "Deployment"}]}`, "allowed denied service verdict"},
	{`{"destination_workload": [{"name": "db", "kind": "Deployment"}, {"name": "db"}]}`, "denied service verdict"},
	{`{"destination_workload": [{"name": "db", "kind": "Deployment"}]}`, ""},
	{`{"source_cluster_name": ["default"]}`, "allowed denied service verdict"},
	{`{"destination_cluster_name": ["default"]}`, "denied service spoofed verdict"},
	{`{"source_identity": [2]}`, "spoofed"},
	{`{"destination_identity": [2, 3]}`, "allowed"},
	{`{"source_port": ["40000"]}`, "allowed denied service verdict"},
	{`{"destination_port": ["53", "80"]}`, "allowed"},
	{`{"destination_port": ["0"]}`, ""},
	{`{"traffic_direction": ["INGRESS"]}`, "denied service verdict"},
	{`{"traffic_direction": ["EGRESS", "TRAFFIC_DIRECTION_UNKNOWN"]}`, "allowed spoofed"},
	{`{"verdict": ["DROPPED"]}`, "denied service spoofed verdict"},
	{`{"verdict": ["FORWARDED", "REDIRECTED"]}`, "allowed"},
	{`{"drop_reason_desc": ["INVALID_SOURCE_IP", "POLICY_DENY"]}`, "spoofed"},
	{`{"event_type": [{"type": 1}]}`, "denied service spoofed"},
	{`{"event_type": [{"type": 1, "match_sub_type": true, "sub_type": 132}]}`, "spoofed"},
	{`{"event_type": [{"type": 4}, {"type": 5}]}`, "allowed verdict"},
	{`{"event_type": [{"type": 4, "match_sub_type": true}]}`, ""},
	{`{"event_type": [{"match_sub_type": true, "sub_type": 3}]}`, "allowed"},
	{`{"protocol": ["TCP"]}`, "denied service verdict"},
	{`{"protocol": ["udp", "icmp"]}`, "allowed spoofed"},
	{`{"protocol": ["ICMPv4"]}`, "spoofed"},
	{`{"protocol": ["icmpv6", "sctp"]}`, ""},
	{`{"protocol": ["http", "udp"]}`, "allowed"},
	{`{"reply": [false]}`, "allowed denied service spoofed verdict"},
	{`{"reply": [true]}`, ""},
	{`{"tcp_flags": [{"SYN": true}]}`, "denied service verdict"},
	{`{"tcp_flags": [{"SYN": true, "ACK": true}]}`, ""},
	{`{"node_name": ["node-1"]}`, "allowed denied spoofed verdict"},
	{`{"node_name": ["default/node-2.*"]}`, "service"},
	{`{"node_name": ["default/"]}`, "allowed denied service spoofed verdict"},
	{`{"node_name": ["*.Example.com."]}`, "service"},
	{`{"ip_version": ["IPv6"]}`, "allowed"},
	{`{"destination_fqdn": ["A.b.Example.com."]}`, "allowed"},
	{`{"destination_fqdn": ["b.example.com", "*.cluster.local*"]}`, ""},
	{`{"destination_fqdn": ["*.example.com"]}`, "allowed"},
	{`{"destination_fqdn": ["a.*e.com"]}`, "allowed"},
	{`{"destination_fqdn": ["axb.example.com", "*.example.com.example.com"]}`, ""},
	{`{"ip_version": ["IPv4", "IPv6"]}`, "allowed denied service spoofed verdict"},
	{`{"verdict": ["DROPPED"], "protocol": ["tcp"], "destination_service": ["shop/db"]}`, "service"},
	{`{}`, "allowed denied service spoofed verdict"},
}

// TestFilters: each filter matches what it says, and nothing else.
func TestFilters(t *testing.T) {
	all := seen()
	for _, one := range matches {
		f, err := readFilters("whitelist", []*flowpb.FlowFilter{filterOf(t, one.filter)})
		if err != nil {
			t.Errorf("%s: %v", one.filter, err)
			continue
		}
		if err := f.hold(); err != nil {
			t.Errorf("%s: %v", one.filter, err)
		}
		var have []string
		for name, flow := range all {
			if f.match(flow) {
				have = append(have, name)
			}
		}
		slices.Sort(have)
		if strings.Join(have, " ") != one.want {
			t.Errorf("%s matches %q, want %q", one.filter, strings.Join(have, " "), one.want)
		}
	}
}

// TestAllFieldsAreRead: there is no field of a filter that would be passed over, and each that something
// can match is in the table of TestFilters.
func TestAllFieldsAreRead(t *testing.T) {
	described := (&flowpb.FlowFilter{}).ProtoReflect().Descriptor().Fields()
	for i := range described.Len() {
		if name := described.Get(i).Name(); fields[name] == nil {
			t.Errorf("%s is not read", name)
		}
	}
	if described.Len() != len(fields) {
		t.Errorf("%d fields are read, of %d", len(fields), described.Len())
	}
	tried := map[protoreflect.Name]bool{}
	for _, one := range matches {
		filterOf(t, one.filter).ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			tried[f.Name()] = true
			return true
		})
	}
	for _, name := range impossible {
		tried[name] = true
	}
	for name := range fields {
		if !tried[name] && name != "experimental" {
			t.Errorf("%s is not tried", name)
		}
	}
}

// impossible are the fields that no flow can match.
var impossible = []protoreflect.Name{
	"source_service", "source_fqdn", "dns_query", "http_status_code", "http_method", "http_path", "http_url", "http_header",
	"source_ip_xlated", "interface", "trace_id", "ip_trace_id", "node_labels", "encrypted",
}

// TestFiltersThatCannotHold: a whitelist that nothing can match is refused, by the names of its fields; one
// that something can match is not, and a blacklist excludes nothing by it. Hubble's UI sends such.
func TestFiltersThatCannotHold(t *testing.T) {
	for _, text := range []string{
		`{"source_service": ["shop/db"]}`, `{"source_fqdn": ["*.cluster.local*"]}`, `{"dns_query": ["a"]}`,
		`{"http_status_code": ["404"]}`, `{"http_method": ["GET"]}`, `{"http_path": ["/"]}`, `{"http_url": ["/"]}`, `{"http_header": [{"key": "a"}]}`,
		`{"source_ip_xlated": ["10.0.0.1"]}`, `{"interface": [{"name": "eth0"}]}`, `{"trace_id": ["1"]}`, `{"ip_trace_id": ["1"]}`,
		`{"node_labels": ["a=b"]}`, `{"encrypted": [false]}`, `{"protocol": ["http", "vrrp"]}`, `{"verdict": ["REDIRECTED"]}`,
		`{"drop_reason_desc": ["NO_SID"]}`, `{"event_type": [{"type": 129}]}`, `{"source_cluster_name": ["east"]}`, `{"node_name": ["east/node-1"]}`,
	} {
		f := filterOf(t, text)
		field := strings.SplitN(text, `"`, 3)[1]
		cannot, err := readFilters("whitelist", []*flowpb.FlowFilter{f})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := cannot.hold(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v, want InvalidArgument about %s", text, err, field)
		}
		if cannot.match(seen()["denied"]) {
			t.Errorf("%s matches", text)
		}
		either, err := readFilters("whitelist", []*flowpb.FlowFilter{f, filterOf(t, `{"protocol": ["tcp"]}`)})
		if err != nil || either.hold() != nil || !either.match(seen()["denied"]) {
			t.Errorf("%s or another: %v, %v", text, err, either.hold())
		}
	}
	if len(impossible) != 14 {
		t.Errorf("%d fields, want those tried here", len(impossible))
	}
}

// TestFiltersThatAreNone: what cannot be read is refused, by the name of its field, in both lists: to pass a
// filter over would show what is not wanted.
func TestFiltersThatAreNone(t *testing.T) {
	later := &flowpb.FlowFilter{}
	later.ProtoReflect().SetUnknown([]byte{0xfa, 0x3f, 0x00}) // field 1023, of no bytes
	if _, err := readFilters("blacklist", []*flowpb.FlowFilter{later}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "later version") {
		t.Errorf("a field of a later version: %v", err)
	}
	for _, text := range []string{
		`{"source_ip": ["10.0.0.256"]}`, `{"destination_ip": ["10.0.0.0/33"]}`, `{"source_pod": [""]}`, `{"destination_pod": [""]}`,
		`{"destination_service": [""]}`, `{"source_label": ["app in web"]}`, `{"destination_label": ["a=b=c"]}`, `{"source_label": ["=", "("]}`,
		`{"source_port": ["http"]}`, `{"destination_port": ["65536"]}`, `{"protocol": ["gre"]}`, `{"node_name": [""]}`,
		`{"node_name": ["a/b/c"]}`, `{"destination_fqdn": ["a b"]}`, `{"destination_fqdn": ["(a"]}`, `{"node_name": ["[a"]}`, `{"experimental": {"cel_expression": ["true"]}}`,
	} {
		field := strings.SplitN(text, `"`, 3)[1]
		_, err := readFilters("blacklist", []*flowpb.FlowFilter{{}, filterOf(t, text)})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "blacklist: "+field) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestMayForward: connections that pass are asked for only by those who could be shown one.
func TestMayForward(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: true, `{"source_pod": ["shop/"]}`: true, `{"verdict": ["DROPPED"]}`: false, `{"verdict": ["FORWARDED", "DROPPED"]}`: true,
		`{"drop_reason_desc": ["POLICY_DENY"]}`: false, `{"event_type": [{"type": 1}]}`: false, `{"event_type": [{"type": 1}, {"type": 4}]}`: true,
	} {
		if have := mayForward([]*flowpb.FlowFilter{filterOf(t, text)}); have != want {
			t.Errorf("%s: %v", text, have)
		}
	}
	if !mayForward(nil) {
		t.Error("without a filter, nothing may pass")
	}
}
