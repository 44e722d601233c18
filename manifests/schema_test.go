package manifests

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// schema is a part of a CustomResourceDefinition's.
type schema map[string]any

// specs are the schemas of a ClusterNetworkPolicy's spec in a channel, by version.
func specs(t *testing.T, channel string) map[string]schema {
	t.Helper()
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema struct{ Properties struct{ Spec schema } }
				}
			}
		}
	}
	text := files(t, "config", "crd", channel)["policy.networking.k8s.io_clusternetworkpolicies.yaml"]
	if err := yaml.Unmarshal([]byte(text), &crd); err != nil {
		t.Fatal(err)
	}
	all := map[string]schema{}
	for _, v := range crd.Spec.Versions {
		all[v.Name] = v.Schema.OpenAPIV3Schema.Properties.Spec
	}
	return all
}

// walk calls each with every field below a schema, by the last step of its path, in which [] is
// an item. What selectors have in common is one field.
func (s schema) walk(step string, each func(step string, s schema)) {
	each(step, s)
	properties, _ := s["properties"].(map[string]any)
	if properties["matchExpressions"] != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		schema(properties[name].(map[string]any)).walk(name, each)
	}
	if items, is := s["items"].(map[string]any); is {
		schema(items).walk(step+"[]", each)
	}
}

// rules are what a schema asks of a field besides its type.
func (s schema) rules() string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(s)) {
		switch key {
		case "description", "type", "format", "properties", "items", "x-kubernetes-map-type":
		case "x-kubernetes-validations":
			for _, v := range s[key].([]any) {
				all = append(all, v.(map[string]any)["rule"].(string))
			}
		default:
			all = append(all, fmt.Sprintf("%s %v", key, s[key]))
		}
	}
	return strings.Join(all, ", ")
}

// TestSchemaIsKnown: the CustomResourceDefinition has the fields and the rules that are validated
// here, and no others. Where this fails with a newer release of the API, there is something to do
// in validate_cluster.go.
func TestSchemaIsKnown(t *testing.T) {
	want := []string{
		"action: enum [Accept Deny Pass]",
		"destinationNamedPort: ",
		"destinationPort: maxProperties 1, minProperties 1",
		"domainNames: maxItems 25, minItems 1, x-kubernetes-list-type set",
		`domainNames[]: pattern ` + domainName.String(),
		"egress: maxItems 25",
		"egress[]: required [action to], !(self.to.exists(peer, has(peer.networks) || has(peer.nodes) || has(peer.domainNames)) && has(self.protocols) && self.protocols.exists(protocol, has(protocol.destinationNamedPort)))",
		"end: maximum 65535, minimum 1",
		"from: maxItems 25, minItems 1",
		"from[]: maxProperties 1, minProperties 1",
		"ingress: maxItems 25",
		"ingress[]: required [action from]",
		"name: maxLength 100",
		"namespaceSelector: ",
		"namespaces: ",
		"networks: maxItems 25, minItems 1, x-kubernetes-list-type set",
		"networks[]: maxLength 43, isCIDR(self) && cidr(self) == cidr(self).masked()",
		"nodes: ",
		"number: maximum 65535, minimum 1",
		"podSelector: ",
		"pods: required [podSelector]",
		"priority: maximum 1000, minimum 0",
		"protocols: maxItems 25, minItems 1",
		"protocols[]: maxProperties 1, minProperties 1",
		"range: required [end start], self.start < self.end",
		"sctp: minProperties 1",
		"spec: required [priority subject tier]",
		"start: maximum 65535, minimum 1",
		"subject: maxProperties 1, minProperties 1",
		"tcp: minProperties 1",
		"tier: enum [Admin Baseline]",
		"to: maxItems 25, minItems 1",
		"to[]: maxProperties 1, minProperties 1",
		"udp: minProperties 1",
	}
	experimental := specs(t, "experimental")
	if len(experimental) != len(versions["ClusterNetworkPolicy"]) || !reflect.DeepEqual(experimental["v1beta1"], experimental["v1alpha2"]) {
		t.Errorf("the versions are %v, or they differ", slices.Sorted(maps.Keys(experimental)))
	}
	seen := map[string]bool{}
	experimental["v1beta1"].walk("spec", func(step string, s schema) { seen[step+": "+s.rules()] = true })
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// The standard channel has nothing that the experimental one does not have. It has no rule
	// about fields that it does not have.
	want = append(want, "egress[]: required [action to]")
	specs(t, "standard")["v1beta1"].walk("spec", func(step string, s schema) {
		if line := step + ": " + s.rules(); !slices.Contains(want, line) {
			t.Errorf("the standard channel has %s", line)
		}
	})
}
