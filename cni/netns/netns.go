// Package netns runs functions in a network namespace.
package netns

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Own is the namespace of the calling thread; /proc/self is the main one's.
const Own = "/proc/thread-self/ns/net"

// Inside runs f on a thread in the network namespace of an open file; 0 is the process's own.
// Sockets that f opens stay in the namespace, and /proc/sys/net shows that of the thread that
// opens a file in it.
func Inside(fd int, f func() error) error {
	if fd == 0 {
		return f()
	}
	return OnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// InsidePath is Inside the network namespace of a path.
func InsidePath(path string, f func() error) error {
	fd, err := Open(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return Inside(fd, f)
}

// OnThread runs f, which may change its thread's namespace, on a thread of its own. A thread that
// can't be brought back is not used again: the runtime ends a thread whose goroutine ends while
// locked to it. Not every thread is left to that fate, because the main thread would not end but
// keep the namespace.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// What is reported when f ends its goroutine and never returns.
		err := errors.New("function in a network namespace: goroutine exited")
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, openErr := Open(Own)
		if openErr != nil {
			err = openErr
			return
		}
		defer func() {
			if unix.Setns(home, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			unix.Close(home)
		}()
		err = f()
	}()
	return <-done
}

// Open opens a network namespace.
func Open(path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return fd, nil
}
