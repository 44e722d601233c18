package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checker holds a document against the Go type that it is decoded into. The
// strict decoders stop at the first wrong type, and none of them knows lines.
type checker struct {
	structs map[reflect.Type]map[string]reflect.Type
}

func newChecker() checker {
	return checker{structs: map[reflect.Type]map[string]reflect.Type{}}
}

// finding is told one finding: its line, its path, and what is wrong.
type finding func(line int, path *field.Path, err error)

var (
	unmarshalers = reflect.TypeFor[json.Unmarshaler]()

	errUnknown = errors.New("unknown field")
)

// check reports every unknown and duplicate field, and every value that the
// type does not take. line is where the value's name is.
func (c *checker) check(n *node, t reflect.Type, path *field.Path, line int, found finding) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.kind < list {
		line = n.line
	}
	switch {
	case n.kind == null || t.Kind() == reflect.Interface:
		return
	case reflect.PointerTo(t).Implements(unmarshalers):
		if err := json.Unmarshal(n.appendJSON(nil), reflect.New(t).Interface()); err != nil {
			found(line, path, invalid(path, n, describeCustom(t, err)))
		}
		return
	}
	want := wants(t)
	if n.kind != want {
		found(line, path, invalid(path, n, fmt.Sprintf("must be %s, not %s", want, n.kind)))
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		types := c.fields(t)
		c.members(n, path, found, func(m member) {
			child := path.Child(m.name)
			if ft, ok := types[m.name]; ok {
				c.check(m.value, ft, child, m.line, found)
				return
			}
			found(m.line, child, errUnknown)
		})
	case reflect.Map:
		c.members(n, path, found, func(m member) {
			c.check(m.value, t.Elem(), path.Key(m.name), m.line, found)
		})
	case reflect.Slice:
		for i, item := range n.items {
			child := path.Index(i)
			if item.kind == null {
				found(item.line, child, emptyItem(child))
				continue
			}
			c.check(item, t.Elem(), child, item.line, found)
		}
	default:
		if msg := outOfRange(n, t); msg != "" {
			found(line, path, invalid(path, n, msg))
		}
	}
}

// emptyItem refuses what the API server takes as an empty item, which in a list of rules
// allows everything.
func emptyItem(path *field.Path) *field.Error { return field.Required(path, "the list item is empty") }

// members calls each with every member, and reports names that come twice.
func (c *checker) members(n *node, path *field.Path, found finding, each func(member)) {
	first := make(map[string]int, len(n.members))
	for _, m := range n.members {
		if line, duplicate := first[m.name]; duplicate {
			found(m.line, path.Child(m.name), fmt.Errorf("duplicate field, first on line %d", line))
		} else {
			first[m.name] = m.line
		}
		each(m)
	}
}

// fields returns the JSON fields of a struct with their types.
func (c *checker) fields(t reflect.Type) map[string]reflect.Type {
	if known, ok := c.structs[t]; ok {
		return known
	}
	types := map[string]reflect.Type{}
	c.structs[t] = types
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "" && f.Anonymous:
			for inner, innerType := range c.fields(f.Type) {
				types[inner] = innerType
			}
		case name != "" && name != "-":
			types[name] = f.Type
		}
	}
	return types
}

func wants(t reflect.Type) kind {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return object
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return text // base64
		}
		return list
	case reflect.String:
		return text
	case reflect.Bool:
		return boolean
	}
	return number
}

// outOfRange says why a scalar of the right kind is no value of the type.
func outOfRange(n *node, t reflect.Type) string {
	var err error
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		_, err = strconv.ParseInt(n.scalar, 10, t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		_, err = strconv.ParseUint(n.scalar, 10, t.Bits())
	}
	if err != nil {
		return fmt.Sprintf("must be an integer of %d bits", t.Bits())
	}
	return ""
}

// describeCustom says what a type that reads itself wants.
func describeCustom(t reflect.Type, err error) string {
	switch t {
	case reflect.TypeFor[intstr.IntOrString]():
		return "must be an integer of 32 bits or a string"
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return "must be a time such as 2006-01-02T15:04:05Z"
	}
	return err.Error()
}

// invalid shows a scalar, but not all of a list or an object.
func invalid(path *field.Path, n *node, detail string) *field.Error {
	var value any = field.OmitValueType{}
	switch n.kind {
	case text:
		value = n.scalar
	case number, boolean:
		value = json.RawMessage(n.scalar)
	}
	return field.TypeInvalid(path, value, detail)
}
