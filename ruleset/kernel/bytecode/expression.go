package bytecode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Expression is one expression of a rule: the kernel's name for its type, and its attributes, by their
// numbers in include/uapi/linux/netfilter/nf_tables.h.
type Expression struct {
	Name       string
	Attributes map[uint16][]byte
}

// parseExpressions reads a list of expressions.
func parseExpressions(list []byte) (all []Expression, err error) {
	ad, err := netlink.NewAttributeDecoder(list)
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		e, err := parseExpression(ad.Bytes())
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, ad.Err()
}

func parseExpression(data []byte) (e Expression, err error) {
	parts, err := attributesOf(data)
	if err != nil {
		return e, err
	}
	e.Name = text(parts[unix.NFTA_EXPR_NAME])
	e.Attributes, err = attributesOf(parts[unix.NFTA_EXPR_DATA])
	return e, err
}

// attributesOf reads attributes, each of which may come once.
func attributesOf(data []byte) (map[uint16][]byte, error) {
	attributes := map[uint16][]byte{}
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		if _, twice := attributes[ad.Type()]; twice {
			return nil, fmt.Errorf("attribute %d comes twice", ad.Type())
		}
		attributes[ad.Type()] = ad.Bytes()
	}
	return attributes, ad.Err()
}

// text is a string that the kernel has ended with a zero.
func text(data []byte) string { return string(bytes.TrimRight(data, "\x00")) }

// arguments hands out the attributes of an expression, one after the other. In the end, all must have
// been asked for: one that is not may change what the expression means. The first thing that is wrong
// is the error of end.
type arguments struct {
	left  map[uint16][]byte
	wrong error
}

func argumentsOf(e Expression) *arguments { return &arguments{left: maps.Clone(e.Attributes)} }

// bytes takes an attribute, which must be there.
func (a *arguments) bytes(attribute uint16) []byte {
	data, has := a.left[attribute]
	if !has && a.wrong == nil {
		a.wrong = fmt.Errorf("attribute %d is missing", attribute)
	}
	delete(a.left, attribute)
	return data
}

func (a *arguments) has(attribute uint16) bool { _, has := a.left[attribute]; return has }

// number takes a number of 1, 4 or 8 bytes, which is big-endian.
func (a *arguments) number(attribute uint16) uint64 {
	data := a.bytes(attribute)
	if len(data) > 8 && a.wrong == nil {
		a.wrong = fmt.Errorf("attribute %d has %d octets", attribute, len(data))
	}
	var n [8]byte
	copy(n[8-min(len(data), 8):], data)
	return binary.BigEndian.Uint64(n[:])
}

// want takes a number that must be one of those given.
func (a *arguments) want(attribute uint16, values ...uint64) {
	if n := a.number(attribute); a.wrong == nil && !slices.Contains(values, n) {
		a.wrong = fmt.Errorf("attribute %d is %d", attribute, n)
	}
}

// optional takes a number that, if it is there, must be one of those given.
func (a *arguments) optional(attribute uint16, values ...uint64) {
	if a.has(attribute) {
		a.want(attribute, values...)
	}
}

// ignore takes attributes that change nothing.
func (a *arguments) ignore(attributes ...uint16) {
	for _, attribute := range attributes {
		delete(a.left, attribute)
	}
}

// data takes an attribute with a value in it, NFTA_DATA_VALUE.
func (a *arguments) data(attribute uint16) []byte {
	inner, err := attributesOf(a.bytes(attribute))
	value, has := inner[unix.NFTA_DATA_VALUE]
	if (err != nil || !has || len(inner) != 1) && a.wrong == nil {
		a.wrong = fmt.Errorf("attribute %d holds no value", attribute)
	}
	return value
}

// end says what was wrong.
func (a *arguments) end() error {
	if a.wrong == nil && len(a.left) > 0 {
		return fmt.Errorf("it has attributes that this program does not know: %v", slices.Sorted(maps.Keys(a.left)))
	}
	return a.wrong
}
