// Package plugin is the CNI plugin: it connects a pod to its node's bridge, and
// lets nothing of the pod pass before the agent has said that the pod's rules
// are in the kernel.
//
//	Plugin        the commands of CNI 1.1: Add, Del, Check, GC, Status
//	ReadConfig    what the network configuration says
//	LinkName, PodMAC, BridgeMAC, RouteProtocol, Gateway
//	              how the agent recognises what the plugin has made
//
// # What a pod gets
//
//	 pod                                node
//	+---------------------------+      +---------------------------------------------+
//	| eth0  10.244.1.7/32       |      | podfence0  10.244.1.1/32, its MAC is fixed  |
//	|       fd00:10:244:1::7/128| veth |   |  permanent neighbour 10.244.1.7 PodMAC  |
//	|       MAC PodMAC          |======|=pf…  route 10.244.1.7/32 dev podfence0      |
//	| default via 10.244.1.1    |      |      FDB PodMAC -> pf…, static              |
//	|   onlink                  |      |      learning off, all flooding off         |
//	| permanent neighbour       |      |                                             |
//	|   10.244.1.1 BridgeMAC    |      |                                             |
//	+---------------------------+      +---------------------------------------------+
//
// All that a pod sends goes to the bridge's own MAC and is routed, so it passes
// the node's inet forward hook, even to a pod beside it. Nobody ever asks for an
// address by ARP or neighbour discovery: the first packet needs none, and there
// is nothing to forge an answer to.
//
// # What a kill leaves
//
// ADD is a list of steps, and kill -9 may come between any two. Every name is
// derived from the container's ID and the interface's name, and the first step
// notes the addresses on disk under both, so that whoever comes next finds all
// of it:
//
//	step        leaves                           found by
//	leases      the pod's addresses, on disk     container ID and interface name
//	bridge      the bridge                       stays: it is the node's
//	link        the pair, down, in no bridge     its name; goes with the namespace
//	pod …       addresses, routes in the pod     go with the link
//	agent       the pod's rules, unused          the agent: its del, gc, or the next add
//	port        the host's end in the bridge     goes with the link
//	host        neighbours and host routes       the leased addresses
//	up          a pod that works                 as above
//
// DEL, GC and an ADD that fails undo it in the opposite order, the leases last:
// as long as anything may be left, its address is not given to another. ADD
// itself, called again for the same container, takes over the leases and
// replaces the rest.
//
// If nobody ever calls DEL or GC for a container, what it has ends with the boot, or when the next
// ADD of any container finds its link gone (lost.go).
package plugin
