package cli

import (
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/go-logr/logr"
)

// limitMemory has Go keep to five eighths of what the process's cgroup may take, so that the process
// collects garbage more and more often rather than being killed. The remaining three eighths are for
// transactions and for the kernel's table, which counts as the process's memory since Linux 5.18
// (GFP_KERNEL_ACCOUNT in net/netfilter/nf_tables_api.c). limitMemory does nothing without a limit, or
// if GOMEMLIMIT is set. cgroup is where cgroups are mounted.
func limitMemory(log logr.Logger, cgroup fs.FS) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	for _, file := range []string{"memory.max", "memory/memory.limit_in_bytes"} { // of version 2, and of 1
		text, err := fs.ReadFile(cgroup, file)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil || limit <= 0 || limit >= 1<<60 { // "max", or what version 1 has for none
			return
		}
		debug.SetMemoryLimit(limit / 8 * 5)
		log.V(1).Info("Keeping to a part of the cgroup's memory limit", "limit", limit, "part", limit/8*5)
		return
	}
}
