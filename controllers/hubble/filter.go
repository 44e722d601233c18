package hubble

import (
	"fmt"
	"slices"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// match reports whether a flow has what one field of a filter asks for. Nil: no flow can have it, as
// podfence knows nothing of such things.
type match func(*flowpb.Flow) bool

// fields reads each field of a FlowFilter, by its name in Hubble's API.
var fields = map[protoreflect.Name]func(*flowpb.FlowFilter) (match, error){
	"uuid":                     oneOf((*flowpb.FlowFilter).GetUuid, (*flowpb.Flow).GetUuid),
	"source_ip":                addresses((*flowpb.FlowFilter).GetSourceIp, (*flowpb.IP).GetSource),
	"destination_ip":           addresses((*flowpb.FlowFilter).GetDestinationIp, (*flowpb.IP).GetDestination),
	"source_pod":               names((*flowpb.FlowFilter).GetSourcePod, source),
	"destination_pod":          names((*flowpb.FlowFilter).GetDestinationPod, destination),
	"source_label":             selectors((*flowpb.FlowFilter).GetSourceLabel, source),
	"destination_label":        selectors((*flowpb.FlowFilter).GetDestinationLabel, destination),
	"destination_service":      services,
	"source_workload":          workloads((*flowpb.FlowFilter).GetSourceWorkload, source),
	"destination_workload":     workloads((*flowpb.FlowFilter).GetDestinationWorkload, destination),
	"source_cluster_name":      clusters((*flowpb.FlowFilter).GetSourceClusterName, source),
	"destination_cluster_name": clusters((*flowpb.FlowFilter).GetDestinationClusterName, destination),
	"source_identity":          identities((*flowpb.FlowFilter).GetSourceIdentity, source),
	"destination_identity":     identities((*flowpb.FlowFilter).GetDestinationIdentity, destination),
	"source_port":              ports((*flowpb.FlowFilter).GetSourcePort, sourcePort),
	"destination_port":         ports((*flowpb.FlowFilter).GetDestinationPort, destinationPort),
	"traffic_direction":        oneOf((*flowpb.FlowFilter).GetTrafficDirection, (*flowpb.Flow).GetTrafficDirection),
	"verdict":                  verdicts,
	"drop_reason_desc":         dropReasons,
	"event_type":               eventTypes,
	"protocol":                 protocols,
	"reply":                    replies,
	"tcp_flags":                flagSets,
	"node_name":                nodeNames,
	"ip_version":               ipVersions,
	"destination_fqdn":         domainNames((*flowpb.FlowFilter).GetDestinationFqdn, (*flowpb.Flow).GetDestinationNames),

	// Of these, podfence knows nothing: it tells of no DNS, reads no HTTP, and sees a packet where its rules
	// decide.
	"source_service": unknown, "source_fqdn": unknown, "dns_query": unknown,
	"http_status_code": unknown, "http_method": unknown, "http_path": unknown, "http_url": unknown, "http_header": unknown,
	"source_ip_xlated": unknown, "interface": unknown, "trace_id": unknown, "ip_trace_id": unknown,
	"node_labels": unknown, "encrypted": unknown,

	"experimental": func(*flowpb.FlowFilter) (match, error) {
		return nil, fmt.Errorf("expressions of CEL are not evaluated: use the other filters")
	},
}

// unknown reads a field that no flow can match.
func unknown(*flowpb.FlowFilter) (match, error) { return nil, nil }

// filter is one FlowFilter: a flow must have all that it asks for. cannot are the fields that no flow can
// match.
type filter struct {
	matches []match
	cannot  []string
}

// filters are some of them, of which a flow must match one.
type filters []filter

// readFilters reads a list of filters, whose name in the request is list. What cannot be read, or is not
// known here, is an error.
func readFilters(list string, all []*flowpb.FlowFilter) (filters, error) {
	var read filters
	for _, one := range all {
		f, err := readFilter(one)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s: %v", list, err)
		}
		read = append(read, f)
	}
	return read, nil
}

func readFilter(from *flowpb.FlowFilter) (f filter, err error) {
	if len(from.ProtoReflect().GetUnknown()) > 0 {
		return f, fmt.Errorf("the filter has fields of a later version of Hubble's API, which are not known here: use an older client, or other filters")
	}
	from.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		read := fields[field.Name()]
		if read == nil {
			err = fmt.Errorf("%s: there is no such filter here", field.Name())
			return false
		}
		m, failed := read(from)
		switch {
		case failed != nil:
			err = fmt.Errorf("%s: %w", field.Name(), failed)
		case m == nil:
			f.cannot = append(f.cannot, string(field.Name()))
		default:
			f.matches = append(f.matches, m)
		}
		return err == nil
	})
	slices.Sort(f.cannot)
	return f, err
}

// hold is an error if there are filters, and none of them can match a flow. To answer with no flow would
// look as if there was none.
func (all filters) hold() error {
	var cannot []string
	for _, f := range all {
		if len(f.cannot) == 0 {
			return nil
		}
		cannot = append(cannot, f.cannot...)
	}
	if len(cannot) == 0 {
		return nil
	}
	slices.Sort(cannot)
	return status.Errorf(codes.InvalidArgument, "no flow of podfence can match these filters: it does not know, or never has, what they ask for in %s", strings.Join(slices.Compact(cannot), ", "))
}

// match reports whether a flow matches one of the filters.
func (all filters) match(f *flowpb.Flow) bool {
	return slices.ContainsFunc(all, func(one filter) bool { return one.match(f) })
}

func (f *filter) match(flow *flowpb.Flow) bool {
	if len(f.cannot) > 0 {
		return false
	}
	return !slices.ContainsFunc(f.matches, func(m match) bool { return !m(flow) })
}

// mayForward reports whether a connection that passes could match. Filters by verdict, event and reason
// tell; for all others it could.
func mayForward(whitelist []*flowpb.FlowFilter) bool {
	if len(whitelist) == 0 {
		return true
	}
	return slices.ContainsFunc(whitelist, func(f *flowpb.FlowFilter) bool {
		return len(f.GetDropReasonDesc()) == 0 && (len(f.GetVerdict()) == 0 || slices.Contains(f.GetVerdict(), flowpb.Verdict_FORWARDED)) &&
			(len(f.GetEventType()) == 0 || slices.ContainsFunc(f.GetEventType(), func(e *flowpb.EventTypeFilter) bool { return e.GetType() != eventDrop }))
	})
}
