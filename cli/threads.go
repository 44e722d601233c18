package cli

import (
	"os"
	"runtime"
)

// leastThreads is how many goroutines run at once at least.
const leastThreads = 8

// raiseThreads has more goroutines run at once than a small machine has processors. One that is
// ready then waits for the kernel's scheduler, which interrupts who has run for long at once,
// and not for Go's, which lets a goroutine run for 10 ms before another may (forcePreemptNS in
// runtime/proc.go): a change of a label goes through six of them, while others read somebody's
// large policy and collect garbage (docs/adr/0045). It does nothing where there are as many
// processors, or if GOMAXPROCS is set.
func raiseThreads() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < leastThreads {
		runtime.GOMAXPROCS(leastThreads)
	}
}
