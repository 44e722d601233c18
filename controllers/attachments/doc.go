// Package attachments answers the CNI plugin: it takes in whose an address of this node is, and
// lets an ADD succeed when the pod's rules are in the kernel.
//
//	attachments.go  Server: ADD, DEL, GC and STATUS, and what an ADD waits for
//	store.go        what the plugin has said, kept on disk until the next boot
//	lost.go         ends attachments whose link is gone, as nobody called DEL
//	modes.go        what another --cni has left: pods, and calls by an old configuration
//	status.go       notes the first commit, for when no agent answers
//	unserved.go     an Event on a pod that asks for what this node's network does not do
package attachments
