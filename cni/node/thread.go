package node

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inside runs f on a thread in a network namespace; 0 is the process's own.
// /proc/sys/net shows the namespace of the thread that opens a file in it. A
// thread that can't be brought back is not used again: the runtime ends a thread
// whose goroutine ends while locked to it.
func inside(netns int, f func() error) error {
	if netns == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- onThread(netns, f) }()
	return <-done
}

func onThread(netns int, f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() {
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		unix.Close(home)
	}()
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return f()
}
