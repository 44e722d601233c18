package manifests

import (
	"encoding/json"
	"strconv"
	"strings"
)

// kind is what JSON knows of a value.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	list
	object
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

// node is a JSON value that knows where it was written. Aliases and merge keys are already replaced
// by what they stand for. That keeps its own lines, because there it has to be mended.
type node struct {
	kind kind
	line int
	// scalar is a string's value, or the JSON of any other scalar.
	scalar string
	// members are an object's, in order of writing. A name may come twice.
	members []member
	items   []*node
	// later are more items of a list, which are not read yet.
	later *splitList
}

type member struct {
	name  string
	line  int
	value *node
}

// get returns the first member of that name, or nil.
func (n *node) get(name string) *node {
	for _, m := range n.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// str returns the string at a path of names, or "".
func (n *node) str(names ...string) string {
	for _, name := range names {
		if n = n.get(name); n == nil {
			return ""
		}
	}
	if n.kind != text {
		return ""
	}
	return n.scalar
}

// appendJSON writes the value for a JSON decoder.
func (n *node) appendJSON(b []byte) []byte {
	switch n.kind {
	case object:
		b = append(b, '{')
		for i, m := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, m.name), ':')
			b = m.value.appendJSON(b)
		}
		return append(b, '}')
	case list:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.appendJSON(b)
		}
		return append(b, ']')
	case text:
		return appendString(b, n.scalar)
	}
	return append(b, n.scalar...)
}

func appendString(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // it never fails on a string
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// lineOf returns the line of the field at a path such as
// spec.ingress[0].ports[1].port or metadata.labels[app]; where there is no
// such field, of the nearest one around it that there is.
func (n *node) lineOf(path string) int {
	_, line, _ := n.find("."+path, n.line)
	return line
}

// has reports whether there is a field at such a path. One that is null is not there.
func (n *node) has(path string) bool {
	deepest, _, left := n.find("."+path, n.line)
	return left == 0 && deepest.kind != null
}

// find returns the deepest field on the path, its line, and how much of the
// path is left there. Names may hold dots and brackets themselves, so every
// name that fits is tried.
func (n *node) find(path string, line int) (deepest *node, best, left int) {
	deepest, best, left = n, line, len(path)
	try := func(value *node, line int, remaining string) {
		if value.kind < list {
			line = value.line // a scalar may be on a line after its name
		}
		if d, l, r := value.find(remaining, line); r < left {
			deepest, best, left = d, l, r
		}
	}
	switch n.kind {
	case object:
		for _, m := range n.members {
			for _, step := range []string{"." + m.name, "[" + m.name + "]"} {
				remaining, ok := strings.CutPrefix(path, step)
				if ok && (remaining == "" || remaining[0] == '.' || remaining[0] == '[') {
					try(m.value, m.line, remaining)
				}
			}
		}
	case list:
		digits, remaining, ok := strings.Cut(strings.TrimPrefix(path, "["), "]")
		i, err := strconv.Atoi(digits)
		if ok && err == nil && i >= 0 && i < len(n.items) {
			try(n.items[i], n.items[i].line, remaining)
		}
	}
	return deepest, best, left
}
