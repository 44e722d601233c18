package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// settings are the sysctls of a network namespace. What is read and written below proc counts for the
// network namespace of the thread that does it, whichever mount of proc that is.
type settings struct {
	// proc is where sysctls can be written: /proc/sys, or in a container a mount of the host's.
	proc string
	// netns is an open file of the network namespace; 0: the calling thread's own.
	netns int
}

// read returns the value of a setting, such as net/netfilter/nf_conntrack_acct.
func (s settings) read(name string) (value string, err error) {
	err = inNamespace(s.netns, func() error {
		text, err := os.ReadFile(filepath.Join(s.proc, name))
		value = strings.TrimSpace(string(text))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("sysctl: %w", err)
	}
	return value, nil
}

// write gives a setting a value.
func (s settings) write(name, value string) error {
	err := inNamespace(s.netns, func() error {
		// Without O_CREATE, as /proc can't create.
		file, err := os.OpenFile(filepath.Join(s.proc, name), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteString(value)
		return errors.Join(err, file.Close())
	})
	if err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// inNamespace calls do in a network namespace; 0: that of the calling thread.
func inNamespace(netns int, do func() error) error {
	if netns == 0 {
		return do()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		done <- do()
	}()
	return <-done
}
