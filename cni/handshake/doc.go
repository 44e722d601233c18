// Package handshake is what the CNI plugin and the agent of a node say to each
// other, over a unix socket.
//
//	Call     the plugin's side: one request, one answer
//	Listen   the agent's side: the socket
//	Serve    answers, by a function that does what is asked
//	NoteCommit, Committed
//	         say, also while the agent is away, that rules are in the kernel
//	NoteBoot, BootOf
//	         say of which boot files on disk are that are not to outlive it
//
// A connection carries one Request and one Response, each one line of JSON that
// ends with a newline, at most MaxSize octets long:
//
//	-> {"version":1,"op":"add","timeoutMillis":10000,"containerID":"8c…","ifName":"eth0",
//	    "pod":{"namespace":"shop","name":"web-0","uid":"0f…"},
//	    "ips":["10.244.1.7","fd00:10:244:1::7"],"mac":"ae:…","hostInterface":"pf…","netNS":"/run/netns/…"}
//	<- {"version":1}
//
// The answer to an add says that the pod's rules are in the kernel. Until then
// the plugin lets no frame of the pod pass; without it, ADD fails. To the plugin, an
// error in the answer, a late answer and no answer are the same. But only an answer
// says what takes so long. So the plugin tells how long it waits, and the agent
// answers before that.
//
// # Who may speak
//
// Whoever can add a pod can give any pod's rights to any address. Only root may use
// the socket, which has mode 0600, and Serve asks the kernel who has connected
// (SO_PEERCRED, see unix(7)).
//
// # Versions
//
// Each side says which version it speaks. The version grows when an older side
// would misunderstand; new fields that may be ignored don't change it. A server
// answers an unknown version with an error and its own version.
package handshake
