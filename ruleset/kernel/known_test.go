package kernel

import (
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

// TestEverythingIsKnown: each match, field and datatype of package nft has its expressions
// here, in tables of both families, and fields take as many registers as their datatypes do.
func TestEverythingIsKnown(t *testing.T) {
	for _, bridge := range []bool{false, true} {
		for _, m := range nft.Examples() {
			exprs, err := program(nft.Rule{Matches: []nft.Match{m}}, bridge, queueByExpression)
			if err != nil || len(exprs) < 2 { // its own, and the verdict
				t.Errorf("bridge: %t: %s has %d expressions: %v", bridge, m, len(exprs), err)
			}
		}
		for f := range nft.Fields() {
			words, err := (&assembler{bridge: bridge}).loadField(f, firstRegister)
			if want := (f.Datatype().Width() + 3) / 4; err != nil || int(words) != want {
				t.Errorf("bridge: %t: %s takes %d registers, want %d: %v", bridge, f, words, want, err)
			}
			library, known := libraryTypes[f.Datatype()]
			if !known || library.Name != f.Datatype().String() || int(library.Bytes) != f.Datatype().Width() {
				t.Errorf("%s, %d bytes, is the library's %s, %d bytes", f.Datatype(), f.Datatype().Width(), library.Name, library.Bytes)
			}
		}
	}
}
