package cli

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/observer"
)

// maxObserveFlows is what --observe-flows can be at most.
const maxObserveFlows = 1 << 20

// observerFlags are the flags about what is seen of denied packets and of connections.
func observerFlags(f *pflag.FlagSet, o *agent.Options) {
	f.IntVar(&o.ObserveFlows, "observe-flows", agent.DefaultObserveFlows, "how many of the last denied packets and observed connections are kept for kubectl podfence observe and Hubble, from 1 to 1048576; each takes up to 1.6 kB of memory, some 7 MB for 4096 and 1.7 GB for the most")
	f.StringVar(&o.DropLog.To, "drop-log", observer.DropLogOff, "where to write a line of JSON for each packet that is told of as denied, or as one that staged policies would deny: off, stdout, or the path of a file; if off, those of namespaces with the annotation podfence.io/drop-log: \"true\" go to standard output")
	f.IntVar(&o.DropLog.MaxSizeMB, "drop-log-max-size-mb", 100, "with --drop-log FILE, how large it gets before it becomes an old file, in MiB")
	f.IntVar(&o.DropLog.MaxFiles, "drop-log-max-files", 3, "with --drop-log FILE, how many old files are kept beside it; the oldest are deleted")
}

// checkObserver refuses values that cannot be meant.
func checkObserver(o *agent.Options) error {
	if o.ObserveFlows < 1 || o.ObserveFlows > maxObserveFlows {
		return fmt.Errorf("--observe-flows is %d: it must be from 1 to %d", o.ObserveFlows, maxObserveFlows)
	}
	return o.DropLog.Check()
}
