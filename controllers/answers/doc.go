// Package answers answers questions about the agent and its node, over HTTP on a loopback address.
//
//	server.go    Server: who may ask, how many at once, and what of a question is read
//	status.go    how the agent and its node are
//	history.go   what is remembered of outcomes for that
//	question.go  what a question about a packet says
//	way.go       which hooks a packet takes on this node
//	trace.go     what the kernel does to it there
//	live.go      which connections would be cut if policies were others: who may ask, and for how long
//	cuts.go      these, by who they are between
//	names.go     what domain names are resolved to
//	flows.go     what was last seen of denied packets and of connections, and what comes, as a stream
//
// It reads, and changes nothing. What is asked is package api/answers' to say, and package api/flows'. No answer keeps a commit
// waiting: what it takes from the model are a few numbers, kept for a second (status.go), and what it
// asks the kernel goes by connections of its own.
package answers
