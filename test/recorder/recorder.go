// Package recorder stands in for the kernel where a test looks at the plans that an enforcer makes.
package recorder

import (
	"strings"
	"sync"

	"github.com/podfence/podfence/ruleset/nft"
)

// Kernel keeps the plans that it is told to carry out. The zero value takes any. It may be used
// from any goroutine; its fields must not change while it is.
type Kernel struct {
	// Next is a kernel that gets the plans as well. Nil: there is none.
	Next interface {
		Apply(nft.Plan) error
		Check(nft.Plan) error
	}
	// Before runs before the n-th call of Apply, counted from 1, and may fail it. Nil: it does not.
	Before func(n int) error
	// Will says whether the kernel will have a plan. Nil: it will have any.
	Will func(nft.Plan) error

	mu              sync.Mutex
	applied, checks int
	fail            error
	plans           []nft.Plan
}

// Apply implements enforcer.Kernel.
func (k *Kernel) Apply(plan nft.Plan) error {
	k.mu.Lock()
	k.applied++
	n, err := k.applied, k.fail
	k.mu.Unlock()
	if err == nil && k.Before != nil {
		err = k.Before(n)
	}
	if err == nil && k.Will != nil {
		err = k.Will(plan)
	}
	if err == nil && k.Next != nil {
		err = k.Next.Apply(plan)
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plans = append(k.plans, plan)
	return nil
}

// Check implements enforcer.Kernel.
func (k *Kernel) Check(plan nft.Plan) (err error) {
	k.mu.Lock()
	k.checks++
	k.mu.Unlock()
	if k.Will != nil {
		err = k.Will(plan)
	}
	if err == nil && k.Next != nil {
		err = k.Next.Check(plan)
	}
	return err
}

// Fail has every call of Apply fail from now on; with nil, none.
func (k *Kernel) Fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

// Plans are those carried out so far.
func (k *Kernel) Plans() []nft.Plan {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]nft.Plan(nil), k.plans...)
}

// Holds reports whether a plan carried out so far has a text in it.
func (k *Kernel) Holds(text string) bool {
	for _, plan := range k.Plans() {
		if strings.Contains(plan.Text(), text) {
			return true
		}
	}
	return false
}

// Forget forgets the plans so far.
func (k *Kernel) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plans = nil
}

// Attempts is how often Apply has been called, whatever came of it.
func (k *Kernel) Attempts() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.applied
}

// Checked is how often Check has been called.
func (k *Kernel) Checked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.checks
}
