package nft

// A Refusal is the error of a plan that the kernel refuses now, and would refuse later as well. An
// error of the moment, such as a lack of memory, is not a Refusal.
type Refusal struct {
	// Op is the index in Plan.Ops of the first operation that was refused. It is -1 if that is not
	// known, or if something else than an operation was refused.
	Op int
	// Err is what the kernel says.
	Err error
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }
