// Package check ends a test by what must not be: an error, or waiting in vain.
package check

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// NoError ends the test if there is an error.
func NoError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Value returns a value, or ends the test with the error that came instead:
//
//	node := check.Value(lab.AddNode("node-1", addr))(t)
func Value[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		NoError(t, err)
		return value
	}
}

// Eventually tries until there is no error, and ends the test with the last one after the
// limit.
func Eventually(t testing.TB, limit time.Duration, what string, try func() error) {
	t.Helper()
	NoError(t, Await(limit, what, try))
}

// Holds makes a condition one to be tried.
func Holds(is func() bool) func() error {
	return func() error {
		if !is() {
			return errors.New("it is not so")
		}
		return nil
	}
}

// Await tries until there is no error, and returns the last one after the limit. It tries
// again in a tenth of the time that has passed, in 2 to 200 ms.
func Await(limit time.Duration, what string, try func() error) error {
	for began := time.Now(); ; {
		err := try()
		waited := time.Since(began)
		if err == nil {
			return nil
		}
		if waited > limit {
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		}
		time.Sleep(min(max(waited/10, 2*time.Millisecond), 200*time.Millisecond))
	}
}
