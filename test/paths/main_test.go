package paths_test

import (
	"flag"
	"os"
	"testing"

	"github.com/podfence/podfence/test/stage"
)

var full = flag.Bool("paths", false, "send all frames there are, in all scenes, not a part of them in some")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(stage.Main(m))
}
