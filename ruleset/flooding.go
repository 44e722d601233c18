package ruleset

import (
	"fmt"

	"github.com/podfence/podfence/ruleset/nft"
)

// Who is denied more than floodRate packets a second is flooding. For floodedFor seconds its packets are
// dropped after a single lookup, and neither told nor counted for a flow: what a packet costs that is denied is
// paid by all who share the processor that it comes in on (ADR 63). The rules that denied them count them all the
// same.

const (
	// floodRate is how many packets of one source may be denied per second, twice as many at once, before it is
	// flooding; and floodedFor is for how many seconds it is then.
	floodRate, floodedFor = 100, 1
)

// flooders are who may be flooding: the field by which one is told from another, and the end of the names of the
// sets with how many packets of each were denied, and with those that are flooding.
type flooders struct {
	field nft.Field
	of    string
}

func (w flooders) rates() string    { return "denied-rates-" + w.of }
func (w flooders) flooding() string { return "flooding-" + w.of }

// isFlooding matches packets of who is flooding, and beginsTo the packet by which somebody comes to be.
func (w flooders) isFlooding() []nft.Match {
	return []nft.Match{nft.Lookup{Fields: []nft.Field{w.field}, Set: w.flooding()}}
}

func (w flooders) beginsTo() []nft.Match {
	return []nft.Match{
		nft.Limit{Field: w.field, Set: w.rates(), PerSecond: floodRate, Burst: 2 * floodRate, Over: true},
		nft.Noted{Fields: []nft.Field{w.field}, Set: w.flooding()},
	}
}

func (w flooders) sets() []*nft.Set {
	key := nft.Of(w.field.Datatype())
	return []*nft.Set{
		dynamicSet(w.rates(), "how often packets are denied", key, ToldFor),
		dynamicSet(w.flooding(), "who is denied too many to look at", key, floodedFor),
	}
}

// linkFlooders are links.
var linkFlooders = flooders{field: nft.InPort, of: "links"}

// flooders are who may be flooding.
func (k denied) flooders(f family) flooders {
	of := "other"
	if !k.anyDirection {
		of = k.direction.String()
	}
	return flooders{field: f.src(), of: fmt.Sprintf("%s-%d", of, f)}
}
