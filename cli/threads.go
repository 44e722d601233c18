package cli

import (
	"os"
	"runtime"
)

// leastThreads is how many goroutines run at once at least.
const leastThreads = 8

// raiseThreads has more goroutines run at once than a small machine has processors. A goroutine that
// is ready then waits for the kernel's scheduler, which at once interrupts a thread that has run for
// long. It does not wait for Go's scheduler, which lets a goroutine run for 10 ms before another may
// (forcePreemptNS in runtime/proc.go). A change of a label goes through six goroutines, while others
// read somebody's large policy and collect garbage (docs/adr/0045). raiseThreads does nothing where
// there are as many processors, or if GOMAXPROCS is set.
func raiseThreads() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < leastThreads {
		runtime.GOMAXPROCS(leastThreads)
	}
}
