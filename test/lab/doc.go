// Package lab builds small clusters out of network namespaces and sends real
// packets through them.
//
// A lab has nodes, a node has hosts attached to it: pods, and hosts outside
// the cluster. Each is one network namespace. All links are made inside the
// lab's own namespaces; the machine's own is not touched.
//
//	  node namespace: forwards IPv4 and IPv6, holds the ruleset under test
//	+---------------------------------------------------------------------+
//	|  lo: the node's addresses                                           |
//	|                                                                     |
//	|  veth1      veth2      ext1           br0 10.9.0.1/24  fd09::1/64   |
//	|  fe80::1    fe80::1    fe80::1         |        |                   |
//	|    |          |          |           veth3    veth4         peer1 ------ another node
//	+----|----------|----------|-------------|--------|-------------------+
//	    eth0       eth0       eth0          eth0     eth0
//	  10.9.1.2   10.9.1.3   192.0.2.9     10.9.0.2  10.9.0.3
//	  /32 /128   /32 /128   /32 /128      /24 /64   /24 /64
//	   pod a      pod b     external       pod c     pod d
//	   `---- Routed ---'                   `- Bridged -'
//
// Routed hosts reach everything through the node, which has one route to
// each: every packet passes the inet forward hook. Bridged hosts share a
// subnet; the node's br_netfilter settings are on, so that frames between two
// of them pass the inet forward hook too. Guarded hosts are at ports of the
// bridge, but send everything to it as routed ones do to the node.
//
//	Lab, Node, Host    the namespaces: AddNode, AddPod, AddExternal, Connect
//	Lab.Probe          single packets, sent in batches: which ones arrived? A Wire says how
//	                   each is sent: in fragments, with options, in a VLAN
//	Host.Serve, Dial   real TCP and UDP connections, to keep and talk on, and
//	                   SCTP associations where the kernel has them (CheckSCTP)
//	Host.Do            anything else, run inside the namespace
//
// A probe is judged at the receiver: each packet carries a unique tag at its
// end, and has arrived when a packet socket on the receiving host has read
// that very tag. No server is needed and no reply, so one batch can have
// thousands of probes of any protocol. On a node the tag is read behind the
// input hook, on all other hosts before the host's own filters.
//
// It needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW); Check tells. It
// runs no other program.
package lab
