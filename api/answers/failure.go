package answers

// Failure is the answer to a question that could not be answered. The HTTP status says whose fault that
// is: 4xx the question's, 429 that too many ask at once (ask again after Retry-After seconds), 503 that
// the agent cannot tell now.
type Failure struct {
	TypeMeta `json:",inline"`
	// Reason is one word for programs: BadRequest, NotFound, MethodNotAllowed, Forbidden, TooLarge,
	// TooManyRequests, Unavailable.
	Reason string `json:"reason"`
	// Message says what failed, on what, and what to do.
	Message string `json:"message"`
}

// Error is the message, so that a Failure can be returned as an error.
func (f *Failure) Error() string { return f.Message }
