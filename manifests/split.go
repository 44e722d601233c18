package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"
)

// A tree takes some thirty times the memory of its text, and a dump of a cluster is one document. So
// a file is read in parts, and the memory of each is free before the next is read: parts are the
// documents of a file and the items of a list. Parts are found by looking at the beginnings of
// lines, which is enough for what tools write. Where it is not enough, the parts cannot be read, and
// the document is read whole.

// part is a stretch of a file, with where its lines are.
type part struct {
	data []byte
	// before is how many lines the file has before it.
	before int
	// If cut is not zero, out lines were taken out of the part after its line cut.
	cut, out int
}

// at is the file's line that a line of the part is, both counted from 1.
func (p part) at(line int) int {
	if line < 1 { // not known
		return line
	}
	if p.cut > 0 && line > p.cut {
		line += p.out
	}
	return p.before + line
}

func lineCount(data []byte) int { return bytes.Count(data, []byte("\n")) }

// documentParts splits a file between documents: of JSON after each value, of YAML at the
// markers, which nothing else can look like.
func documentParts(data []byte) iter.Seq[part] {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if values, ok := jsonValues(data); ok {
		return values
	}
	return func(yield func(part) bool) {
		var (
			begin  int  // of the part
			before int  // lines before it
			filled bool // it has more than comments and directives
		)
		cut := func(end int) bool {
			p := part{data: data[begin:end], before: before}
			before += lineCount(p.data)
			begin, filled = end, false
			return yield(p)
		}
		for at, line := range lines(data) {
			switch {
			case marks(line, "---"):
				if filled && !cut(at) {
					return
				}
				filled = true
			case marks(line, "..."):
				if !cut(at + len(line)) {
					return
				}
			case len(bytes.TrimSpace(line)) > 0 && line[0] != '#' && line[0] != '%':
				filled = true
			}
		}
		if begin < len(data) {
			cut(len(data))
		}
	}
}

// lines are a text's, with where each begins.
func lines(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for at := 0; at < len(data); {
			end := len(data)
			if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
				end = at + i + 1
			}
			if !yield(at, data[at:end]) {
				return
			}
			at = end
		}
	}
}

// marks reports whether a line is a document's marker.
func marks(line []byte, marker string) bool {
	after, is := bytes.CutPrefix(line, []byte(marker))
	return is && (len(after) == 0 || bytes.IndexByte([]byte(" \t\r\n"), after[0]) >= 0)
}

// jsonValues splits a file of JSON values, however many.
func jsonValues(data []byte) (iter.Seq[part], bool) {
	if start := bytes.TrimSpace(data); len(start) == 0 || start[0] != '{' && start[0] != '[' {
		return nil, false
	}
	var all []part
	for decoder := json.NewDecoder(bytes.NewReader(data)); ; {
		var value json.RawMessage
		switch err := decoder.Decode(&value); {
		case errors.Is(err, io.EOF):
			return func(yield func(part) bool) {
				for _, p := range all {
					if !yield(p) {
						return
					}
				}
			}, true
		case err != nil: // what begins with a brace may be YAML too
			return nil, false
		}
		end := int(decoder.InputOffset())
		begin := end - len(value)
		all = append(all, part{data: data[begin:end], before: lineCount(data[:begin])})
	}
}

// splitList is a list whose items were taken out of it.
type splitList struct {
	// emptied is the list without items, and line is where it has its empty brackets.
	emptied part
	line    int
	// items are the items; of YAML, each is a list of one.
	items []part
	yaml  bool
}

// errNoParts says that a list is not what the beginnings of its lines let suppose.
var errNoParts = &syntaxError{msg: "the items of the list cannot be told apart"}

// item reads one of the items.
func (l *splitList) item(p part) (*node, *syntaxError) {
	docs, err := documents(p)
	switch {
	case err != nil:
		return nil, err
	case len(docs) == 0 && !l.yaml:
		return &node{line: p.at(1)}, nil // null
	case len(docs) != 1, l.yaml && (docs[0].kind != list || len(docs[0].items) != 1):
		return nil, errNoParts
	case l.yaml:
		return docs[0].items[0], nil
	}
	return docs[0], nil
}

// splitItems takes the items out of a list, if it has any that can be told apart.
func splitItems(p part) (splitList, bool) {
	if start := bytes.TrimSpace(p.data); len(start) > 0 && start[0] == '{' {
		return splitJSONItems(p)
	}
	return splitYAMLItems(p)
}

// splitYAMLItems finds "items:" at the beginning of a line, and the dashes below it. All
// that is deeper than those is an item's.
func splitYAMLItems(p part) (l splitList, ok bool) {
	name, body := itemsLine(p.data)
	if name < 0 {
		return l, false
	}
	indent, begin, end := -1, body, len(p.data)
	before := p.before + lineCount(p.data[:body])
	take := func(to int) {
		item := part{data: p.data[begin:to], before: before}
		l.items = append(l.items, item)
		begin, before = to, before+lineCount(item.data)
	}
	for at, line := range lines(p.data) {
		text, depth := bytes.TrimSpace(line), len(line)-len(bytes.TrimLeft(line, " "))
		dash := len(text) > 0 && text[0] == '-' && (len(text) == 1 || text[1] == ' ')
		switch {
		case at < body, len(text) == 0, text[0] == '#', indent >= 0 && depth > indent:
			continue
		case indent < 0 && !dash:
			return l, false // a value of another kind, or none
		case indent < 0:
			indent = depth
			continue
		}
		take(at)
		if depth < indent || !dash {
			end = at
			break
		}
	}
	switch {
	case indent < 0:
		return l, false
	case end == len(p.data):
		take(end)
	}
	const none = "items: []\n"
	head := append(bytes.Clone(p.data[:name]), none...)
	l.emptied = part{
		data: append(head, p.data[end:]...), before: p.before,
		cut: lineCount(head), out: lineCount(p.data[name:end]) - 1,
	}
	l.line, l.yaml = p.before+lineCount(head), true
	return l, true
}

// itemsLine is where the first line "items:" is, and the one after it; -1: nowhere.
func itemsLine(data []byte) (name, after int) {
	for at, line := range lines(data) {
		if string(bytes.TrimRight(line, " \t\r\n")) == "items:" {
			return at, at + len(line)
		}
	}
	return -1, 0
}

// splitJSONItems decodes the outermost object alone.
func splitJSONItems(p part) (l splitList, ok bool) {
	decoder := json.NewDecoder(bytes.NewReader(p.data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return l, false
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return l, false
		}
		if name != "items" {
			var value json.RawMessage
			if decoder.Decode(&value) != nil {
				return l, false
			}
			continue
		}
		if token, err := decoder.Token(); err != nil || token != json.Delim('[') {
			return l, false
		}
		begin := int(decoder.InputOffset())
		counted, before := begin, p.before+lineCount(p.data[:begin])
		for decoder.More() {
			var value json.RawMessage
			if decoder.Decode(&value) != nil {
				return l, false
			}
			at := int(decoder.InputOffset()) - len(value)
			before += lineCount(p.data[counted:at])
			counted = at
			l.items = append(l.items, part{data: p.data[at : at+len(value)], before: before})
		}
		tail := bytes.TrimLeft(p.data[decoder.InputOffset():], " \t\r\n")
		head := bytes.Clone(p.data[:begin])
		l.emptied = part{
			data: append(head, tail...), before: p.before,
			cut: lineCount(head) + 1, out: lineCount(p.data[begin : len(p.data)-len(tail)]),
		}
		l.line = p.before + lineCount(head) + 1
		return l, true
	}
	return l, false
}
