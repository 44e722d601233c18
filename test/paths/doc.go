// Package paths sends, on every way there is between a pod and others, frames of every
// kind there is, and holds what really arrives against a short list.
//
//	make paths
//	go test -count 1 -timeout 0 -v ./test/paths -paths -run TestEveryPath/chained-bridge/dual
//
// A scene is one way of connecting pods (podfence's own plugin, a bridge or routed
// veths of the reference plugins, with podfence behind them in the chain or not), with
// IPv4, IPv6 or both. Without -paths, as in `make test`, each scene is dual stack, and a
// part of the frames is sent.
//
//	scene     a stage of test/stage: who sends and receives, and how they are connected
//	frame     what is sent: who to whom, which kind, by which addresses; matrix makes all
//	flows     what begins a flow, its answer, and more of it: none of an isolated pod's
//	list      what may arrive all the same, row by row with the reason
//	tally     what has arrived and is on no row, similar frames together in one line
//
// A row of the list that was not seen is an error, since it proves nothing. So is a way
// by which nothing arrives even without podfence: each scene is played a second time
// with podfence's rules gone, the control.
package paths
