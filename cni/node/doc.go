// Package node is a node's part in the pods' network: what the agent keeps in
// the node's own network namespace, so that each pod and each node reaches each
// other by its own address, without NAT.
//
//	Open       connects to the kernel, changes nothing
//	Reconcile  the cluster's nodes and this one's pods in, routes and devices out
//	Changed    that others may have changed something
//	MTU        what pods may send
//	Close      hangs up; the network stays
//
// The CNI plugin connects one pod with its node. What it made on the node's side, and has
// gone since, Reconcile makes again. Everything is done by rtnetlink and /proc/sys; nothing
// is executed.
//
// # What is in the kernel
//
// With this node's pods in 10.244.1.0/24, node2 on the same link and node3
// behind a router, and likewise for IPv6:
//
//	podfence0                  10.244.1.1/32         the bridge, the pods' gateway
//	podfence-vxlan             10.244.1.1/32         only while a node needs it
//	unreachable 10.244.1.0/24                        pods' own routes are longer
//	10.244.2.0/24 via 192.168.1.2 dev eth0           host-gw: plain routing
//	10.244.3.0/24 via 10.244.3.1 dev podfence-vxlan onlink
//	  neighbour 10.244.3.1 -> VTEPMAC(node3), FDB VTEPMAC(node3) -> node3's InternalIP
//	rule iif podfence0 lookup 28774                  pods, and only they, reach
//	  192.168.3.3 via 10.244.3.1 dev podfence-vxlan  node3 itself inside the tunnel
//
// Without the last two, a packet from a pod to a node behind a router would have
// a pod's address as its source on a network that knows nothing of pods, which
// routers and clouds with source checks drop, as they would the replies of a pod
// to such a node. The usual way out, NAT, would hide the pod. The rule is for
// what comes from the bridge, so the tunnel's own packets are not caught by it.
//
// The second address of the gateway, on the VXLAN device, is for masquerading:
// what leaves by a device that has no address is given any address of the node
// (inet_select_addr), which the other side may not be able to answer. And where
// rp_filter is loose, IPv4 drops what arrives on such a device
// (__fib_validate_source). What the node itself sends has its InternalIP as
// source, by either way.
//
// # IPv6
//
// A tunnelled IPv6 route goes via the link-local address that belongs to the
// VTEP's MAC. It can't go via an address in the pod CIDR as the IPv4 one does:
// the kernel refuses an onlink gateway that another device's route covers
// (ip6_route_check_nh_onlink), so a node could not move from host-gw to VXLAN
// without a gap. The device itself has no link-local address, hence neither
// duplicate address detection nor router solicitations.
//
// # What is whose
//
// A link with the bridge's name is podfence's if it has the MAC that the plugin
// gives it, one with the VXLAN device's name if it is one. Routes and rules are
// if they have its RouteProtocol, addresses if they are whole (/32, /128) and on
// its own devices, neighbour and FDB entries if they are permanent and on its
// VXLAN device. A pod's link is if it has the MAC that the plugin derives from its
// name. Nothing else is removed or replaced. Routes to the bridge are the
// plugin's, pod by pod: one that is missing is made again, none is removed. A route to a
// pod or a pod CIDR that another has made is an error, and stays.
//
// # What a crash leaves
//
// Nothing is remembered that matters: each Reconcile compares the kernel with
// what it should be, so the next one, of any process, finishes what one that was
// killed began.
package node
