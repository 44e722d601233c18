package manifests

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxFindings bounds what one Load reports: a large file of another kind
// altogether has a finding on every line.
const maxFindings = 1000

// Error is one finding, with its place.
type Error struct {
	// File is the path as Load came by it, or the name given to Parse.
	File string
	// Line counts from 1; it is 0 where the finding is about the whole file.
	Line int
	// Object is "NetworkPolicy shop/db", or "" where there is none to name.
	Object string
	// Field is the path of the field as the API server writes it, or "".
	Field string
	// Err is what is wrong: a *field.Error where the API server has one for it.
	Err error
}

// Error reads "FILE:LINE: OBJECT: FIELD: what is wrong", without the parts
// that are empty.
func (e *Error) Error() string {
	place := e.File
	if e.Line > 0 {
		place = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	what := e.Err.Error()
	if f, ok := e.Err.(*field.Error); ok { //nolint:errorlint // around another one there would be more to say than its body
		what = f.ErrorBody() // the path is e.Field already
	}
	parts := []string{place, e.Object, e.Field, what}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// join returns the findings as one error, in the order of a reader's eye.
func join(found []*Error) error {
	slices.SortStableFunc(found, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Error(), b.Error()))
	})
	var errs []error
	for i, e := range found {
		if i == maxFindings {
			errs = append(errs, fmt.Errorf("and %d more", len(found)-i))
			break
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
