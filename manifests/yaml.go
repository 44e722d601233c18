package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	yamlv2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
)

const (
	// maxDepth is more than any Kubernetes object needs, and little enough to
	// recurse on.
	maxDepth = 200
	// maxAliased bounds what aliases may add to a document, in bytes: nine
	// lines of aliases of aliases are enough to fill any memory. The library
	// has a bound of its own, but not where it hands out nodes, as here.
	maxAliased = 4 << 20
)

// syntaxError is why a file has no tree.
type syntaxError struct {
	line int
	msg  string
}

func (e *syntaxError) Error() string { return e.msg }

// documents reads the documents of a part until the first syntax error. Empty
// ones are left out. Lines are the file's.
func documents(p part) (docs []*node, err *syntaxError) {
	defer func() {
		if err != nil {
			err.line = p.at(err.line)
		}
	}()
	data := p.data
	if err := checkText(data); err != nil {
		return nil, err
	}
	if json.Valid(data) {
		data = unescape(data)
	}
	decoder := yaml.NewDecoder(padded(data))
	for {
		var doc yaml.Node
		err := decode(decoder, &doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return docs, locate(data, err)
		}
		for _, content := range doc.Content {
			e := expander{budget: maxAliased, part: p}
			n, err := e.expand(content)
			if err != nil {
				return docs, err
			}
			if n.kind != null {
				docs = append(docs, n)
			}
		}
	}
}

// padded puts an empty line before the file: the library leaves out the number
// of the line that it counts as 0.
func padded(data []byte) io.Reader {
	return io.MultiReader(strings.NewReader("\n"), bytes.NewReader(data))
}

// decode reads one document. The library has panicked on malformed input
// before (CVE-2022-28948), and a file must not stop an agent.
func decode(decoder interface{ Decode(any) error }, into any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	return decoder.Decode(into)
}

// checkText refuses what the library refuses before it looks at syntax,
// because it does not say where.
func checkText(data []byte) *syntaxError {
	line := 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return &syntaxError{line, "not UTF-8"}
		case r == '\n':
			line++
		case r < ' ' && r != '\t' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff:
			return &syntaxError{line, fmt.Sprintf("control character %#U is not allowed", r)}
		}
		i += size
	}
	return nil
}

// jsonEscapes are those that YAML does not take: one character beyond 16 bits
// as two, and an escaped slash. The last alternative steps over any other.
var jsonEscapes = regexp.MustCompile(`(?i)\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\.`)

// unescape writes the characters of such escapes as themselves.
func unescape(data []byte) []byte {
	return jsonEscapes.ReplaceAllFunc(data, func(escape []byte) []byte {
		if string(escape) == `\/` {
			return escape[1:]
		}
		var s string
		if len(escape) == 2 || json.Unmarshal([]byte(`"`+string(escape)+`"`), &s) != nil {
			return escape
		}
		return []byte(s)
	})
}

// yamlError is how both versions of the library write their errors.
var yamlError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// parserProblems are the library's errors about the order of tokens. It counts
// their lines from 0, all others from 1, and version 3 gives the line where
// the block around it starts.
var parserProblems = []string{
	"did not find expected <stream-start>",
	"did not find expected <document start>",
	"did not find expected node content",
	"did not find expected key",
	"did not find expected '-' indicator",
	"did not find expected ',' or ']'",
	"did not find expected ',' or '}'",
	"found undefined tag handle",
	"found duplicate %YAML directive",
	"found incompatible YAML document",
	"found duplicate %TAG directive",
}

// locate finds the line of a syntax error.
func locate(data []byte, err error) *syntaxError {
	line, msg := readError(err)
	switch {
	case slices.Contains(parserProblems, msg):
		// Version 2 fails at the same token, but gives the token's line.
		if l, m := readError(failureOfV2(data)); m == msg {
			line = l
		}
	case line == 0:
		line = lineOfAlias(data, msg)
	default:
		line-- // the padding
	}
	return &syntaxError{line: line, msg: msg}
}

func readError(err error) (line int, msg string) {
	if err == nil {
		return 0, ""
	}
	match := yamlError.FindStringSubmatch(err.Error())
	if match == nil {
		return 0, err.Error()
	}
	line, _ = strconv.Atoi(match[1]) // no number is line 0
	return line, match[2]
}

func failureOfV2(data []byte) error {
	return failure(yamlv2.NewDecoder(padded(data)), new(struct{}))
}

// failure returns the first syntax error, or nil.
func failure(decoder interface{ Decode(any) error }, into any) error {
	for {
		err := decode(decoder, into)
		var mismatch *yamlv2.TypeError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.As(err, &mismatch):
			return err
		}
	}
}

var unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)

// lineOfAlias finds the alias that an error without a line is about, or
// returns 0. It is on the last line of the shortest beginning of the file that
// has the same error.
func lineOfAlias(data []byte, msg string) int {
	match := unknownAnchor.FindStringSubmatch(msg)
	if match == nil {
		return 0
	}
	alias := []byte("*" + match[1])
	var lines, ends []int // where it may be
	end := 0
	for i, line := range bytes.SplitAfter(data, []byte("\n")) {
		end += len(line)
		if bytes.Contains(line, alias) {
			lines, ends = append(lines, i+1), append(ends, end)
		}
	}
	if len(lines) == 0 {
		return 0
	}
	return lines[sort.Search(len(lines)-1, func(i int) bool {
		_, m := readError(failure(yaml.NewDecoder(padded(data[:ends[i]])), new(yaml.Node)))
		return m == msg
	})]
}

// expander turns the library's nodes into ours.
type expander struct {
	part                   part
	depth, aliases, budget int
}

func (e *expander) expand(n *yaml.Node) (*node, *syntaxError) {
	line := n.Line - 1 // the padding
	if e.depth++; e.depth > maxDepth {
		return nil, &syntaxError{line, fmt.Sprintf("nested deeper than %d levels", maxDepth)}
	}
	defer func() { e.depth-- }()
	if e.aliases > 0 {
		if e.budget -= len(n.Value) + 16; e.budget < 0 {
			return nil, &syntaxError{line, "document contains excessive aliasing"}
		}
	}
	switch n.Kind {
	case yaml.AliasNode:
		e.aliases++
		defer func() { e.aliases-- }()
		return e.expand(n.Alias)
	case yaml.MappingNode:
		return e.mapping(n)
	case yaml.SequenceNode:
		if n.ShortTag() != "!!seq" {
			return nil, &syntaxError{line, fmt.Sprintf("tag %s is not allowed here", n.Tag)}
		}
		out := &node{kind: list, line: e.part.at(line)}
		for _, content := range n.Content {
			item, err := e.expand(content)
			if err != nil {
				return nil, err
			}
			out.items = append(out.items, item)
		}
		return out, nil
	}
	return e.scalar(n)
}

func (e *expander) mapping(n *yaml.Node) (*node, *syntaxError) {
	line := n.Line - 1
	if n.ShortTag() != "!!map" {
		return nil, &syntaxError{line, fmt.Sprintf("tag %s is not allowed here", n.Tag)}
	}
	out := &node{kind: object, line: e.part.at(line)}
	var merged []member
	for i := 0; i+1 < len(n.Content); i += 2 {
		value, err := e.expand(n.Content[i+1])
		if err != nil {
			return nil, err
		}
		keyLine := n.Content[i].Line - 1
		if n.Content[i].ShortTag() == "!!merge" {
			more, err := merge(value, keyLine)
			if err != nil {
				return nil, err
			}
			merged = append(merged, more...)
			continue
		}
		key, err := e.expand(n.Content[i])
		if err != nil {
			return nil, err
		}
		if key.kind == null || key.kind >= list {
			return nil, &syntaxError{keyLine, fmt.Sprintf("a field's name must be a string, not %s", key.kind)}
		}
		out.members = append(out.members, member{name: key.scalar, line: e.part.at(keyLine), value: value})
	}
	if len(merged) == 0 {
		return out, nil
	}
	// What is written wins over what is merged, an earlier merge over a later.
	have := map[string]bool{}
	for _, m := range out.members {
		have[m.name] = true
	}
	for _, m := range merged {
		if !have[m.name] {
			have[m.name] = true
			out.members = append(out.members, m)
		}
	}
	return out, nil
}

// merge returns the members that "<<: value" stands for.
func merge(value *node, line int) ([]member, *syntaxError) {
	maps := []*node{value}
	if value.kind == list {
		maps = value.items
	}
	var members []member
	for _, m := range maps {
		if m.kind != object {
			return nil, &syntaxError{line, "a merge needs an object or a list of objects"}
		}
		members = append(members, m.members...)
	}
	return members, nil
}

// yaml11 are the booleans of YAML 1.1, which kubectl reads: a "yes" without
// quotes is no string there, so it must not be one here.
var yaml11 = map[string]string{
	"yes": "true", "Yes": "true", "YES": "true", "on": "true", "On": "true", "ON": "true",
	"y": "true", "Y": "true", "n": "false", "N": "false",
	"no": "false", "No": "false", "NO": "false", "off": "false", "Off": "false", "OFF": "false",
}

func (e *expander) scalar(n *yaml.Node) (*node, *syntaxError) {
	line := n.Line - 1
	out := &node{line: e.part.at(line)}
	tag := n.ShortTag()
	if b, ok := yaml11[n.Value]; ok && tag == "!!str" && n.Style == 0 {
		out.kind, out.scalar = boolean, b
		return out, nil
	}
	switch tag {
	case "!!str", "!!timestamp", "!!merge":
		out.kind, out.scalar = text, n.Value
	case "!!null":
		out.kind, out.scalar = null, "null"
	case "!!bool", "!!int", "!!float":
		var value any
		if err := n.Decode(&value); err != nil {
			_, msg := readError(err)
			return nil, &syntaxError{line, msg}
		}
		if f, ok := value.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return nil, &syntaxError{line, n.Value + " is not a number that JSON has"}
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, &syntaxError{line, err.Error()}
		}
		if out.kind = number; tag == "!!bool" {
			out.kind = boolean
		}
		out.scalar = string(encoded)
	default:
		return nil, &syntaxError{line, fmt.Sprintf("tag %s is not allowed here", n.Tag)}
	}
	return out, nil
}
