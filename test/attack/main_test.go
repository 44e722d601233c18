package attack_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/podfence/podfence/test/document"
	"github.com/podfence/podfence/test/stage"
)

var (
	full   = flag.Bool("attack", false, "in all modes, all frames, not a part of them in some")
	table  = flag.String("table", "", "put the table of attacks into this document, between its marks")
	seed   = flag.Uint64("seed", 1, "of the random frames")
	frames = flag.Bool("frames", false, "send random frames alone, without the attacks that have a name")
	only   = flag.String("only", "", "the random frame to send, as SENDER:NUMBER, and to show")
)

func TestMain(m *testing.M) {
	flag.Parse()
	began := time.Now()
	code := stage.Main(m)
	if *table != "" && code == 0 {
		if err := document.Publish(*table, "attack", results.rows(), time.Since(began)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// some are all modes, or without -attack those that differ most.
func some() []stage.Mode {
	if *full || *only != "" {
		return modes
	}
	return []stage.Mode{modes[1], modes[2]}
}
