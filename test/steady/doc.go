// Package steady is traffic whose verdict never changes, whatever else does: all of
// it must pass, or none. It is what soak and chaos count by.
//
// Its pods have a namespace that nothing else happens in, and addresses beyond all
// that random pods have:
//
//	caller --TCP--> open    let in by a policy's rule
//	caller --UDP--> shut    isolated for ingress: nobody gets in
//	mute   --UDP--> caller  isolated for egress: nothing gets out
//
// What is allowed are exchanges on kept connections and on new ones, one after the
// other. What is denied are packets of new flows, one each, and of one flow that is
// kept. Whoever should get nothing answers what he gets: a flow that once passed
// would be established.
package steady
