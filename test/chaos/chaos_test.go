package chaos

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/podfence/podfence/test/document"
	"github.com/podfence/podfence/test/lab"
)

var (
	full  = flag.Bool("chaos", false, "make each fault happen as often as docs/RELIABILITY.md says")
	table = flag.String("table", "", "put the table of faults into this document, between its marks")
)

// times is how often a fault happens: often with -chaos, else a few times.
func times(often int) int {
	if *full {
		return often
	}
	return min(often, 3)
}

// timesSlow is times for a fault that takes seconds: else it happens once.
func timesSlow(often int) int {
	if *full {
		return often
	}
	return 1
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := lab.Check(); err != nil {
		fmt.Fprintln(os.Stderr, "the faults need network namespaces:", err)
		os.Exit(1)
	}
	began := time.Now()
	code := m.Run()
	if err := closeWorld(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if *table != "" && code == 0 {
		if err := document.Publish(*table, "chaos", rows(), time.Since(began)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
