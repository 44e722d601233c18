// Package answers has the questions that a node's agent is asked over HTTP, and its answers, as plain
// values that JSON carries.
//
//	status.go   Status: how the agent and its node are
//	trace.go    TraceQuestion and Trace: what the kernel would do to a packet, and the flows like it
//	live.go     LiveQuestion and LiveCuts: which connections would be cut if policies were others
//	names.go    Names: what domain names are resolved to
//	failure.go  Failure: why there is no answer
//
// The agent serves it on a loopback address (--query-address), and `kubectl podfence` asks. Both may be
// of different versions: fields are only added within one version, whoever asks ignores what it does not
// know, and what was not always there is left out of the JSON when it is empty. All values may be
// copied, and are not changed by whoever has handed them out.
package answers

// Version is the version of all questions and answers: the value of every APIVersion.
const Version = "agent.podfence.io/v1"

// Where to ask. An agent listens at DefaultAddress unless it is told otherwise (--query-address); GET StatusPath answers
// with a Status, and POST TracePath with a TraceQuestion in its body answers with a Trace. GET TracePath
// with the question's fields as the query does the same. POST LivePath with a LiveQuestion answers with lines of
// JSON (LiveMediaType), of which each is a LiveCuts. GET NamesPath answers with Names.
const (
	DefaultAddress = "127.0.0.1:9477"
	DefaultPort    = 9477
	StatusPath     = "/v1/status"
	TracePath      = "/v1/trace"
	LivePath       = "/v1/live"
	NamesPath      = "/v1/names"
	LiveMediaType  = "application/x-ndjson"
	// NamespaceParameter of a query to StatusPath has it list the problems of one namespace's policies, and of
	// those that are in none.
	NamespaceParameter = "namespace"
)

// TypeMeta says what an answer is, so that it can be told apart in a file.
type TypeMeta struct {
	// APIVersion is Version.
	APIVersion string `json:"apiVersion"`
	// Kind is the name of the type: Status, Trace, LiveCuts, Names or Failure.
	Kind string `json:"kind"`
}
