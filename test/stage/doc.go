// Package stage is where frames are sent by whoever can: a node with pods and others,
// connected in one of the ways that there are, with podfence at work on it, and receivers
// that see what really arrives.
//
//	Mode, Families  how pods are connected, and with which addresses
//	Stage           a node, an isolated pod (default deny, both ways) and an open one on it,
//	                a host on its uplink, and others
//	Mark, ReadMark  each frame carries a number
//	Watch, Round    which actors have received which number
//
// Frames leave by packet sockets, past the sender's own stack. In pods and outside they
// are received by packet sockets too. A node's packet sockets would see what its rules
// are about to drop, so there a rule of the last priority at the hook input reports what
// has come so far; of frames that no such hook is for, what its bridge has let up to it.
package stage
