package expect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// Kind is the kind of a document of tests; its apiVersion is explain.APIVersion.
const Kind = "PolicyTest"

// Tests are what a document says.
type Tests struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	// Name is what the tests are called in reports; empty: by their file.
	Name string `yaml:"name"`
	// Resolutions are which addresses domain names have, as if every pod had just been told so. Nil: as it is in the cluster,
	// or, of files, none has any.
	Resolutions []Resolution `yaml:"resolutions"`
	Tests       []Test       `yaml:"tests"`
}

// Resolution is which addresses a domain name has.
type Resolution struct {
	Name      string       `yaml:"name"`
	Addresses []netip.Addr `yaml:"addresses"`
}

// UnmarshalYAML implements yaml.Unmarshaler. It knows every field.
func (r *Resolution) UnmarshalYAML(n *yaml.Node) error {
	var plain struct {
		Name      string
		Addresses texts
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: a resolution must be an object", n.Line)
	}
	for i := 0; i < len(n.Content); i += 2 {
		if key := n.Content[i]; key.Value != "name" && key.Value != "addresses" {
			return fmt.Errorf("line %d: unknown field %q of a resolution; it has name and addresses", key.Line, key.Value)
		}
	}
	if err := n.Decode(&plain); err != nil {
		return err
	}
	name := policy.DomainNameOf(plain.Name)
	if !name.Valid() || name.Wildcard() {
		return fmt.Errorf("line %d: name is %q: it must be a domain name, without *", n.Line, plain.Name)
	}
	r.Name = string(name)
	if len(plain.Addresses) == 0 {
		return fmt.Errorf("line %d: addresses are missing: which has %s?", n.Line, name)
	}
	for _, text := range plain.Addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return fmt.Errorf("line %d: %q is no address", n.Line, text)
		}
		r.Addresses = append(r.Addresses, addr.Unmap())
	}
	return nil
}

// Test is one expectation: of all pairs of From and To, by all Ports.
type Test struct {
	Name string `yaml:"name"`
	// From and To are targets as explain.ParseTarget reads them.
	From texts `yaml:"from"`
	To   texts `yaml:"to"`
	// Ports are as explain.ParsePort reads them. Without any, the expectation is about every port, and every
	// protocol without ports: all are open, or none is.
	Ports texts `yaml:"ports"`
	// Expect is allow or deny.
	Expect string `yaml:"expect"`
	// By are the policies of which at least one must decide it, "namespace/name", or "name" of a
	// ClusterNetworkPolicy: those of the rules that allow or deny, or those that isolate the pod.
	By texts `yaml:"by"`
	// Staged: the expectation is about what will be with the staged policies in force.
	Staged bool `yaml:"staged"`

	file string
	line int
}

// texts are one text, or a list of them.
type texts []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *texts) UnmarshalYAML(n *yaml.Node) error {
	switch n.Kind {
	case yaml.ScalarNode:
		*t = texts{n.Value}
		return nil
	case yaml.SequenceNode:
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: must be a text", item.Line)
			}
			*t = append(*t, item.Value)
		}
		return nil
	}
	return fmt.Errorf("line %d: must be a text, or a list of them", n.Line)
}

// UnmarshalYAML implements yaml.Unmarshaler. It keeps the line, and knows every field.
func (t *Test) UnmarshalYAML(n *yaml.Node) error {
	type plain Test
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: a test must be an object", n.Line)
	}
	for i := 0; i < len(n.Content); i += 2 {
		if key := n.Content[i]; !strings.Contains(" name from to ports expect by staged ", " "+key.Value+" ") {
			return fmt.Errorf("line %d: unknown field %q of a test; it has name, from, to, ports, expect, by and staged", key.Line, key.Value)
		}
	}
	t.line = n.Line
	return n.Decode((*plain)(t))
}

// Parse reads the documents of a file of tests; name is what errors call it. Unknown fields are errors.
func Parse(name string, data []byte) (all []Tests, err error) {
	// What a document is comes first: of another kind, every field would be unknown.
	kinds, decoder := yaml.NewDecoder(bytes.NewReader(data)), yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	for {
		var tests Tests
		var is struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string `yaml:"kind"`
		}
		if err := kinds.Decode(&is); err == nil && (is.APIVersion != explain.APIVersion || is.Kind != Kind) {
			return nil, fmt.Errorf("%s: it is %s %q: tests are of apiVersion %s and kind %s", name, is.APIVersion, is.Kind, explain.APIVersion, Kind)
		}
		switch err := decoder.Decode(&tests); {
		case errors.Is(err, io.EOF):
			if len(all) == 0 {
				return nil, fmt.Errorf("%s: there are no tests in it", name)
			}
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if len(tests.Tests) == 0 {
			return nil, fmt.Errorf("%s: there are no tests in it", name)
		}
		if tests.Name == "" {
			tests.Name = name
		}
		for i := range tests.Tests {
			tests.Tests[i].file = name
			if err := tests.Tests[i].check(); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, tests.Tests[i].line, err)
			}
		}
		all = append(all, tests)
	}
}

// check reports what of a test cannot be meant. Names are looked up when it runs.
func (t *Test) check() error {
	switch {
	case len(t.From) == 0:
		return errors.New("from is missing: where do packets come from?")
	case len(t.To) == 0:
		return errors.New("to is missing: where do packets go?")
	case t.Expect != "allow" && t.Expect != "deny":
		return fmt.Errorf("expect is %q: it must be allow or deny", t.Expect)
	}
	for _, from := range t.From {
		for _, to := range t.To {
			if _, err := explain.ParseQuestion(from, to, "default"); err != nil {
				return err
			}
			if len(t.Ports) > 0 && hasPort(to) {
				return fmt.Errorf("to is %q, with a port, and there are ports as well", to)
			}
		}
	}
	for _, port := range t.Ports {
		if _, err := explain.ParsePort(port); err != nil {
			return err
		}
	}
	return nil
}

// hasPort reports whether a target is written with a port.
func hasPort(to string) bool {
	q, err := explain.ParseQuestion("default/any", to, "default")
	return err == nil && q.Port != explain.Port{}
}
