package check_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/test/check"
)

var errNot = errors.New("not yet")

func TestAwait(t *testing.T) {
	tries := 0
	if err := check.Await(time.Minute, "the third", func() error {
		if tries++; tries < 3 {
			return errNot
		}
		return nil
	}); err != nil || tries != 3 {
		t.Errorf("%d tries: %v", tries, err)
	}
	tries = 0
	err := check.Await(5*time.Millisecond, "nothing", func() error { tries++; return errNot })
	if !errors.Is(err, errNot) || !strings.Contains(err.Error(), "waited 5ms for nothing") || tries < 2 {
		t.Errorf("%d tries: %v", tries, err)
	}
}

// fatal is a test that notes that it was ended.
type fatal struct {
	testing.TB
	ended bool
}

func (f *fatal) Helper()      {}
func (f *fatal) Fatal(...any) { f.ended = true }

func TestEnds(t *testing.T) {
	for name, c := range map[string]func(testing.TB, error){
		"NoError":    check.NoError,
		"Value":      func(t testing.TB, err error) { check.Value(7, err)(t) },
		"Eventually": func(t testing.TB, err error) { check.Eventually(t, 0, "it", func() error { return err }) },
	} {
		for _, err := range []error{nil, errNot} {
			f := &fatal{TB: t}
			if c(f, err); f.ended != (err != nil) {
				t.Errorf("%s: with the error %v, ended is %v", name, err, f.ended)
			}
		}
	}
	if check.Holds(func() bool { return true })() != nil || check.Holds(func() bool { return false })() == nil {
		t.Error("a condition is the other way round")
	}
	if check.Value(7, nil)(t) != 7 {
		t.Error("another value")
	}
}
