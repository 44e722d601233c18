package kernel

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// wireField is a field of a message, or an attribute, as it was read: without the order of the machine's octets.
type wireField struct {
	wireAttribute
	kind uint16 // the attribute's, with its flags; of user data the entry's
	// number is of a wireHost and wireNumber. data is of all others but those with fields.
	number uint64
	size   int
	data   []byte
	fields []wireField
}

// wireReader reads one message after another. It is strict: what the formats do not have is an error.
type wireReader struct {
	order    binary.ByteOrder
	messages map[uint16]wireMessage
	// registers are in which order their contents are, by their place in words, as the expressions of the
	// rule have loaded them so far.
	registers map[uint64]wireKind
}

// readWire reads a datagram of one of the families of netlink, from a machine with that order.
func readWire(order binary.ByteOrder, messages map[uint16]wireMessage, datagram []byte) (all []wireField, err error) {
	r := wireReader{order: order, messages: messages}
	for len(datagram) > 0 {
		if len(datagram) < 16 {
			return nil, fmt.Errorf("%d octets are left", len(datagram))
		}
		length := int(order.Uint32(datagram))
		if length < 16 || length > len(datagram) || length%4 != 0 {
			return nil, fmt.Errorf("a message of %d octets, of %d", length, len(datagram))
		}
		m, err := r.message(datagram[:length])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		all, datagram = append(all, m), datagram[length:]
	}
	return all, nil
}

func (r *wireReader) message(data []byte) (m wireField, err error) {
	kind := r.order.Uint16(data[4:])
	format, known := r.messages[kind]
	if m.name = format.name; !known {
		m.name = fmt.Sprintf("message %#x", kind)
		return m, fmt.Errorf("unknown")
	}
	header := r.header(nlmsghdr, data)
	data = data[16:]
	size := 0
	for _, f := range format.header {
		size += f.size
	}
	if len(data) < size {
		return m, fmt.Errorf("its header has %d octets, want %d", len(data), size)
	}
	m.fields = append(header, r.header(format.header, data)...)
	attributes, err := r.attributes(data[size:], format.format)
	m.fields = append(m.fields, attributes...)
	return m, err
}

func (r *wireReader) header(s wireStruct, data []byte) (fields []wireField) {
	for _, f := range s {
		field := wireField{wireAttribute: wireAttribute{name: f.name, kind: f.kind}}
		r.scalar(&field, data[:f.size])
		fields, data = append(fields, field), data[f.size:]
	}
	return fields
}

// scalar reads a value without anything in it.
func (r *wireReader) scalar(f *wireField, data []byte) {
	f.size = len(data)
	switch f.wireAttribute.kind {
	case wireNumber:
		f.number = toNumber(binary.BigEndian, data)
	case wireHost:
		f.number = toNumber(r.order, data)
	default:
		f.data = data
	}
}

func (r *wireReader) attributes(data []byte, format wireFormat) (fields []wireField, err error) {
	for len(data) > 0 {
		if len(data) < 4 {
			return nil, fmt.Errorf("%d octets are left of the attributes", len(data))
		}
		length, kind := int(r.order.Uint16(data)), r.order.Uint16(data[2:])
		padded := (length + 3) &^ 3
		if length < 4 || padded > len(data) {
			return nil, fmt.Errorf("an attribute of %d octets, of %d", length, len(data))
		}
		described, known := format[kind&0x3fff]
		if !known {
			described, known = format[anyAttribute]
		}
		if !known {
			return nil, fmt.Errorf("attribute %d is unknown", kind&0x3fff)
		}
		field, err := r.attribute(wireField{wireAttribute: described, kind: kind}, data[4:length])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", described.name, err)
		}
		fields, data = append(fields, field), data[padded:]
	}
	return fields, nil
}

func (r *wireReader) attribute(f wireField, data []byte) (_ wireField, err error) {
	switch f.wireAttribute.kind {
	case wireNested:
		if f.name == "EXPRESSIONS" {
			r.registers = map[uint64]wireKind{}
		}
		f.fields, err = r.attributes(data, f.in)
	case wireExpression:
		f.fields, err = r.expression(data)
	case wireUserData:
		f.fields, err = r.entries(data, f.in)
	case wireHost, wireNumber:
		if n := len(data); n != 1 && n != 2 && n != 4 && n != 8 {
			return f, fmt.Errorf("a number of %d octets", n)
		}
		r.scalar(&f, data)
	default:
		r.scalar(&f, data)
	}
	return f, err
}

// entries reads user data.
func (r *wireReader) entries(data []byte, format wireFormat) (fields []wireField, err error) {
	for len(data) > 0 {
		if len(data) < 2 || len(data) < 2+int(data[1]) {
			return nil, fmt.Errorf("it ends within an entry")
		}
		described, known := format[uint16(data[0])]
		if !known {
			return nil, fmt.Errorf("entry %d is unknown", data[0])
		}
		f, err := r.attribute(wireField{wireAttribute: described, kind: uint16(data[0])}, data[2:2+data[1]])
		if err != nil {
			return nil, err
		}
		fields, data = append(fields, f), data[2+data[1]:]
	}
	return fields, nil
}

// expression reads an expression, and notes what it leaves in a register.
func (r *wireReader) expression(data []byte) ([]wireField, error) {
	name := ""
	if length := int(r.order.Uint16(data)); length > 4 && length <= len(data) {
		name = strings.TrimRight(string(data[4:length]), "\x00")
	}
	format, known := expressionFormats[name]
	if !known {
		return nil, fmt.Errorf("expression %q is unknown", name)
	}
	fields, err := r.attributes(data, wireFormat{1: text("NAME"), 2: nested(name, format)})
	if err != nil || len(fields) < 2 {
		return fields, err
	}
	numbers := map[string]uint64{}
	for i, f := range fields[1].fields {
		numbers[f.name] = f.number
		if name == "cmp" && f.name == "DATA" || f.name == "MASK" || f.name == "XOR" {
			if err := r.compared(&fields[1].fields[i], word(numbers["SREG"])); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	to := word(numbers["DREG"])
	switch name {
	case "meta", "ct", "fib":
		key := numbers["KEY"] + numbers["RESULT"]
		kind, known := registerKinds[name][key]
		if !known {
			return nil, fmt.Errorf("%s: what key %d loads is unknown", name, key)
		}
		r.registers[to] = kind
	case "payload", "exthdr":
		r.registers[to] = wireOctets
	}
	return fields, nil
}

// compared reads a value that a register is compared with, again: now that it is known what is in the register.
func (r *wireReader) compared(f *wireField, register uint64) error {
	kind, loaded := r.registers[register]
	if !loaded || len(f.fields) != 1 {
		return fmt.Errorf("%s: it is unknown what is in word %d of the registers", f.name, register)
	}
	v := &f.fields[0]
	if kind == wireHost && len(v.data) != 4 {
		return fmt.Errorf("%s: %d octets are compared with a whole register", f.name, len(v.data))
	}
	v.wireAttribute.kind = kind
	r.scalar(v, v.data)
	return nil
}

// word is the place of a register: those from 1 to 4 have four words each, those from 8 on one.
func word(register uint64) uint64 {
	if register < 8 {
		return 4 * (register - 1)
	}
	return register - 8
}

// toNumber and ofNumber are a number of 1, 2, 4 or 8 octets.
func toNumber(order binary.ByteOrder, data []byte) uint64 {
	switch len(data) {
	case 1:
		return uint64(data[0])
	case 2:
		return uint64(order.Uint16(data))
	case 4:
		return uint64(order.Uint32(data))
	}
	return order.Uint64(data)
}

func ofNumber(order binary.ByteOrder, n uint64, size int) []byte {
	data := make([]byte, 8)
	switch size {
	case 1:
		data[0] = byte(n)
	case 2:
		order.PutUint16(data, uint16(n))
	case 4:
		order.PutUint32(data, uint32(n))
	default:
		order.PutUint64(data, n)
	}
	return data[:size]
}

// write is the octets of what was read, for a machine with that order.
func (f *wireField) write(order binary.ByteOrder) []byte {
	switch f.wireAttribute.kind {
	case wireNumber:
		if f.fields == nil {
			return ofNumber(binary.BigEndian, f.number, f.size)
		}
	case wireHost:
		return ofNumber(order, f.number, f.size)
	case wireNested, wireExpression:
	case wireUserData:
		var data []byte
		for _, entry := range f.fields {
			content := entry.write(order)
			data = append(append(data, byte(entry.kind), byte(len(content))), content...)
		}
		return data
	default:
		return f.data
	}
	var data []byte
	for _, in := range f.fields {
		data = append(data, in.attributeOctets(order)...)
	}
	return data
}

func (f *wireField) attributeOctets(order binary.ByteOrder) []byte {
	content := f.write(order)
	data := append(ofNumber(order, uint64(4+len(content)), 2), ofNumber(order, uint64(f.kind), 2)...)
	data = append(data, content...)
	return append(data, make([]byte, -len(data)&3)...)
}

// writeWire is the octets of a datagram, for a machine with that order.
func writeWire(order binary.ByteOrder, messages map[uint16]wireMessage, all []wireField) (datagram []byte) {
	for _, m := range all {
		headers := len(nlmsghdr)
		for _, format := range messages {
			if format.name == m.name {
				headers += len(format.header)
			}
		}
		for i, f := range m.fields {
			if i < headers {
				datagram = append(datagram, f.write(order)...)
			} else {
				datagram = append(datagram, f.attributeOctets(order)...)
			}
		}
	}
	return datagram
}

// wireText is what was read, a line each, without any order of octets.
func wireLines(all []wireField) string {
	var b strings.Builder
	for i := range all {
		all[i].lines(&b, 0)
	}
	return b.String()
}

func (f *wireField) lines(b *strings.Builder, depth int) {
	fmt.Fprintf(b, "%s%s", strings.Repeat("  ", depth), f.name)
	switch f.wireAttribute.kind {
	case wireNumber, wireHost:
		if f.fields == nil {
			fmt.Fprintf(b, " = %s%d:%#x", map[wireKind]string{wireNumber: "n", wireHost: "host"}[f.wireAttribute.kind], 8*f.size, f.number)
		}
	case wireText:
		fmt.Fprintf(b, " = %q", f.data)
	case wireNested, wireExpression, wireUserData:
	default:
		fmt.Fprintf(b, " = %x", f.data)
	}
	b.WriteByte('\n')
	for i := range f.fields {
		f.fields[i].lines(b, depth+1)
	}
}
