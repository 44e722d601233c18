package generate

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"
)

// WriteYAML writes a policy as a YAML document, without "---".
func (p *Policy) WriteYAML(w io.Writer) error {
	text, err := p.yaml()
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil {
		return fmt.Errorf("writing NetworkPolicy %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// yaml is the policy as the API has it, with comments.
func (p *Policy) yaml() ([]byte, error) {
	plain, err := kyaml.Marshal(p.NetworkPolicy)
	if err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(plain, &document); err != nil {
		return nil, err
	}
	p.comment(document.Content[0], "")
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(&document); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

// comment puts comments on a node of a path, and on all below it.
func (p *Policy) comment(n *yaml.Node, path string) {
	if text := p.Comments[path]; text != "" {
		n.HeadComment = "# " + oneLine(text)
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			p.comment(n.Content[i+1], strings.TrimPrefix(path+"."+n.Content[i].Value, "."))
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			p.comment(item, fmt.Sprintf("%s[%d]", path, i))
		}
	}
}

// oneLine is a text without what could end a comment: names in it are from whoever has told of flows.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
