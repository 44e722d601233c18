package cli

import (
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/go-logr/logr"
)

// limitMemory has Go keep to five eighths of what the process's cgroup may take: it then
// collects garbage more and more often, rather than be killed. The rest is for what the
// kernel's table takes, which counts as the process's since Linux 5.18 (GFP_KERNEL_ACCOUNT
// in net/netfilter/nf_tables_api.c), and for transactions. It does nothing without a limit,
// or if GOMEMLIMIT is set. What cgroup names is where cgroups are mounted.
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
