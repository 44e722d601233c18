package manifests

import (
	"reflect"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy/spelling"
)

// what says which of an object's fields podfence reads. All others are nobody's business:
// they come and go with Kubernetes' releases, and are most of a Pod. What is read is held
// against its type to the last field.
type what struct {
	// only: no other fields are read than those in fields.
	only bool
	// not are fields that are not read, of an object that is read otherwise.
	not []string
	// fields are those about which there is more to say.
	fields map[string]what
}

// metadata is an object's, but for what tools note in it. clusterName is one of
// Kubernetes 1.23's and before.
var metadata = what{not: []string{"clusterName", "finalizers", "generateName", "managedFields", "ownerReferences", "selfLink"}}

var containers = what{only: true, fields: map[string]what{"ports": {}}}

// readOf are the kinds' fields. A policy's spec is read whole, for a field that is not
// known may be one that restricts it.
var readOf = map[string]what{
	"NetworkPolicy":        {not: []string{"status"}, fields: map[string]what{"metadata": metadata}},
	"ClusterNetworkPolicy": {not: []string{"status"}, fields: map[string]what{"metadata": metadata}},
	"Namespace":            {not: []string{"spec", "status"}, fields: map[string]what{"metadata": metadata}},
	"Node": {fields: map[string]what{
		"metadata": metadata,
		"spec":     {only: true, fields: map[string]what{"podCIDR": {}, "podCIDRs": {}}},
		"status":   {only: true, fields: map[string]what{"addresses": {}}},
	}},
	"Pod": {fields: map[string]what{
		"metadata": metadata,
		"spec":     podSpec,
		"status":   {only: true, fields: map[string]what{"phase": {}, "podIP": {}, "podIPs": {}}},
	}},
}

// more are the fields of kinds that are read for questions alone, and those of a Pod that only whoever asks
// wants to know.
var more = map[string]what{
	"Pod": {fields: map[string]what{
		"metadata": owned,
		"spec":     podSpec,
		"status":   {only: true, fields: map[string]what{"phase": {}, "podIP": {}, "podIPs": {}, "conditions": conditions}},
	}},
	"Service": {fields: map[string]what{
		"metadata": owned,
		"spec": {only: true, fields: map[string]what{
			"type": {}, "selector": {}, "clusterIP": {}, "clusterIPs": {}, "ports": {}, "externalName": {}, "externalTrafficPolicy": {}, "ipFamilyPolicy": {}, "ipFamilies": {},
			"externalIPs": {}, "publishNotReadyAddresses": {},
		}},
		"status": {only: true, fields: map[string]what{"loadBalancer": {only: true, fields: map[string]what{"ingress": {only: true, fields: map[string]what{"ip": {}, "ipMode": {}}}}}}},
	}},
	"EndpointSlice":         {not: []string{"addressType"}, fields: map[string]what{"metadata": owned}},
	"Deployment":            workload,
	"ReplicaSet":            workload,
	"StatefulSet":           workload,
	"DaemonSet":             workload,
	"ReplicationController": workload,
	"Job":                   job,
	"CronJob": {fields: map[string]what{
		"metadata": owned,
		"spec":     {only: true, fields: map[string]what{"jobTemplate": {only: true, fields: map[string]what{"spec": template}}}},
		"status":   {only: true},
	}},
}

// owned is metadata with whose the object is.
var owned = what{not: slices.DeleteFunc(slices.Clone(metadata.not), func(name string) bool { return name == "ownerReferences" })}

var podSpec = what{only: true, fields: map[string]what{
	"nodeName": {}, "hostNetwork": {}, "containers": containers, "initContainers": containers,
}}

// template is the spec of what makes pods.
var template = what{only: true, fields: map[string]what{
	"replicas": {}, "selector": {}, "template": {only: true, fields: map[string]what{"metadata": metadata, "spec": podSpec}},
}}

var workload = what{fields: map[string]what{"metadata": owned, "spec": template, "status": {only: true}}}

// job is a Job, of which it matters whether it makes more pods.
var job = what{fields: map[string]what{
	"metadata": owned,
	"spec": {only: true, fields: map[string]what{
		"completions": {}, "template": template.fields["template"],
	}},
	"status": {only: true, fields: map[string]what{"conditions": conditions}},
}}

// conditions are those of a status, without when and why they came.
var conditions = what{only: true, fields: map[string]what{"type": {}, "status": {}}}

// fieldsOf are the fields that are read of a kind.
func fieldsOf(kind string, questions bool) what {
	if w, is := more[kind]; is && questions {
		return w
	}
	return readOf[kind]
}

// prune takes what is not read out of an object of a type. A field that the type does not
// have stays if it looks like one that is read, misspelt: it is an error then.
func (c *checker) prune(n *node, t reflect.Type, w what) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	for _, item := range n.items {
		c.prune(item, t, w)
	}
	if n.kind != object || t.Kind() != reflect.Struct {
		return
	}
	types := c.fields(t)
	n.members = slices.DeleteFunc(n.members, func(m member) bool {
		if _, read := w.fields[m.name]; read || !w.only {
			return slices.Contains(w.not, m.name)
		}
		_, known := types[m.name]
		return known || !misspelt(m.name, w.fields)
	})
	for _, m := range n.members {
		if inner, more := w.fields[m.name]; more && types[m.name] != nil {
			c.prune(m.value, types[m.name], inner)
		}
	}
}

// misspelt reports whether a name is one of others but for the case of its letters or two
// of them.
func misspelt(name string, others map[string]what) bool {
	for other := range others {
		if spelling.Distance(strings.ToLower(name), strings.ToLower(other)) <= 2 {
			return true
		}
	}
	return false
}
