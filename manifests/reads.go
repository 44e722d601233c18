package manifests

import (
	"reflect"
	"slices"
	"strings"
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
		"spec": {only: true, fields: map[string]what{
			"nodeName": {}, "hostNetwork": {}, "containers": containers, "initContainers": containers,
		}},
		"status": {only: true, fields: map[string]what{"phase": {}, "podIP": {}, "podIPs": {}}},
	}},
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
		if distance(strings.ToLower(name), strings.ToLower(other)) <= 2 {
			return true
		}
	}
	return false
}

// distance is how many octets to insert, delete or change to make one text the other
// (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
