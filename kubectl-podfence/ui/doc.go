// Package ui serves the page of kubectl podfence ui: a map of who may talk to whom, the matrix, flows as they come, and
// what a change of policies would do. It shows what its user may read, to its user alone, and changes nothing.
//
//	server.go       Server: which requests there are, and how it listens
//	guard.go        who is answered: whoever has the token, on this machine; what a page may do
//	backend.go      Backend: where objects and flows come from, which is the caller's
//	world.go        the objects as they were last read, ready for questions
//	views.go        map, matrix and who reaches whom
//	explanation.go  why, with the rules in the YAML of their policies
//	policytext.go   a policy as YAML, and where its fields are written
//	whatif.go       what a change would open and close
//	flows.go        flows, as lines of JSON
//	page/           the page: HTML, style and modules, as a browser gets them
//
// The page is embedded as it is: nothing is built but by go build. page/vendor has the one library that it uses.
package ui
