package nft

// A Refusal is the error of a plan that the kernel will not have, now or later. An
// error of the moment, such as a lack of memory, is none.
type Refusal struct {
	// Op is the index in Plan.Ops of the first operation that was refused; -1 if
	// that is not known, or if it is none of them.
	Op int
	// Err is what the kernel says.
	Err error
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }
