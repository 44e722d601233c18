// Package attack does what a pod with NET_RAW, or somebody on the network, would do to get
// round podfence, and sees what really arrives.
//
//	make attack
//	go test -count 1 -v ./test/attack -attack -run 'TestAttacks/bridge,_vxlan' -seed 7
//	go test -count 1 -v ./test/attack -run 'TestAttacks/bridge,_vxlan' -seed 7 -only pod:1234
//
// The stage is test/stage's: an isolated pod and an open one on a node, a host outside, the
// other node, and where another plugin has a bridge, a host on a port of it that is no pod's.
//
//	attacks   the table of docs/SECURITY.md: each row's frames, in each mode
//	faults    what podfence's rules could lack
//	fuzz      random frames of whoever sends, of a seed; each frame has a number of its own, by
//	          which it is made again
//	oracle    the promises of docs/SECURITY.md as sentences about who has got which octets from
//	          whom, and the list of what may arrive all the same
//	view      what a frame says, by its octets
//
// Nothing here knows podfence's rules. Each attack is made a second time with those gone: one
// by which nothing arrives then either would prove nothing. In between, in some modes, some of
// the rules are taken away, and the oracle must say which promise is broken.
package attack
