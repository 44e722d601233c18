// Package attachments answers the CNI plugin: it takes in whose an address of this node is, and
// lets an ADD succeed when the pod's rules are in the kernel.
//
//	attachments.go  Server: who asks for what
//	add.go          ADD: what is kept of it, and what it waits for
//	pending.go      pods whose ADDs have failed for long: an Event on each
//	remove.go       DEL and GC: flows end first, then the attachment is forgotten
//	store.go        what the plugin has said, kept on disk until the next boot
//	lost.go         ends attachments whose link is gone, as nobody called DEL
//	modes.go        what another --cni has left: pods, and calls by an old configuration
//	status.go       notes the first commit, for when no agent answers
//	unserved.go     an Event on a pod that asks for what this node's network does not do
package attachments
