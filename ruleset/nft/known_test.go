package nft_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

// TestExamplesAreAll: Examples has an example of every type of match.
func TestExamplesAreAll(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]bool{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declared := range file.Decls {
			if f, is := declared.(*ast.FuncDecl); is && f.Recv != nil && f.Name.Name == "match" && f.Type.Params.NumFields() == 0 {
				types[f.Recv.List[0].Type.(*ast.Ident).Name] = false
			}
		}
	}
	if len(types) < 20 {
		t.Fatalf("only %d types of matches are seen", len(types))
	}
	for _, m := range nft.Examples() {
		types[reflect.TypeOf(m).Name()] = true
	}
	for name, is := range types {
		if !is {
			t.Errorf("there is no example of %s", name)
		}
	}
}

// table has a chain with one rule, and all that the examples look up.
func table(m nft.Match) nft.Table {
	t := nft.NewTable(nft.Inet)
	for _, name := range []string{"addrs", "rates", "connections", "noted"} {
		t.AddSets(&nft.Set{Name: name, Type: nft.Of(nft.IPv4Addr), Elements: map[nft.Element]struct{}{}})
	}
	t.AddChains(&nft.Chain{Name: "base", Hook: &nft.Hook{Point: nft.Forward}, Rules: []nft.Rule{
		{Matches: []nft.Match{m}, Verdict: nft.Verdict{Action: nft.Drop}},
	}})
	return t
}

// TestEveryMatchIsKnown: the tracer knows every match, and each has a text of its own.
func TestEveryMatchIsKnown(t *testing.T) {
	texts := map[string]nft.Match{}
	for _, m := range nft.Examples() {
		table := table(m)
		table.Trace(nft.Forward, nft.TracePacket{}) // panics at what it does not know
		text := m.String()
		if other, taken := texts[text]; taken || text == "" {
			t.Errorf("%#v and %#v are both %q", m, other, text)
		}
		texts[text] = m
	}
}

// TestEveryFieldIsKnown: the tracer knows every field, and each has a text of its own, and a datatype.
func TestEveryFieldIsKnown(t *testing.T) {
	texts := map[string]nft.Field{}
	for f := range nft.Fields() {
		table := table(nft.Lookup{Fields: []nft.Field{f}, Set: "addrs"})
		table.Trace(nft.Forward, nft.TracePacket{})
		if other, taken := texts[f.String()]; taken || f.String() == "" {
			t.Errorf("fields %d and %d are both %q", f, other, f)
		}
		texts[f.String()] = f
		if f.Datatype().Width() == 0 {
			t.Errorf("%s has no datatype", f)
		}
	}
	if texts["meta l4proto & ip"] != nft.Zero {
		t.Error("the last field is not seen")
	}
}

// odd is a match that nobody knows.
type odd struct{ nft.Match }

// TestTracerRefusesTheUnknown: the tracer panics at what it does not know, as it would have to guess.
func TestTracerRefusesTheUnknown(t *testing.T) {
	for want, m := range map[string]nft.Match{
		"match nft_test.odd": odd{nft.ICMPv6{}},
		"field 99":           nft.Lookup{Fields: []nft.Field{99}, Set: "addrs"},
	} {
		func() {
			defer func() {
				if told := fmt.Sprint(recover()); !strings.Contains(told, want) {
					t.Errorf("the tracer does not name the unknown %s: %s", want, told)
				}
			}()
			table := table(m)
			table.Trace(nft.Forward, nft.TracePacket{})
		}()
	}
}
