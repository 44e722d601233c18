// Package ruleset says what podfence's nftables tables must hold.
//
// It is pure: a policy.Intent goes in, a Table comes out, as values of package ruleset/nft, in
// which a Table's text, its Plans and the tracer are.
//
//	Build, Update
//	          Build makes the whole Table for an Intent; Update changes the Table by a
//	          policy.Delta, and returns the Plan for that
//	BuildGuard, UpdateGuard
//	          the same for the second table, of family bridge, where podfence
//	          connects the pods too
//	BuildLinks, UpdateLinks
//	          the same for the second table where another plugin connects them
//	Affected  the addresses whose flows may be judged otherwise after an Update
//	Denied    who has denied a packet, by its trace
//	AllowedBy which rules have accepted one
//	Users     the policies that an operation is for
//
// The tables:
//
//	table.go    Table: family inet, where policies are enforced; its size
//	guard.go    Guard: family bridge, the ports of podfence's own bridge
//	links.go    Frames: family bridge, the ports of another plugin's bridges; and what
//	            the Table has about these links
//	options.go  Options: the choices that change the Table
//	names.go    the names of chains and sets
//	origin.go   what rules are for, as values
//
// What changes in them:
//
//	update.go    what a Delta changes
//	changes.go   operations in the order that they need
//	shared.go    addresses that several pods have
//	affected.go  whose flows may be judged otherwise
//	denied.go    who has denied a packet
//	reasons.go   why a rule denies, and what its counter counts of policies
//	denial.go    why a packet that the kernel has told of was denied
//	decided.go   a rule that has decided, as flows name it
//	allowed.go   which rules of policies have accepted one
//	users.go     the policies that an operation is for
//
// What is in them:
//
//	static.go       base chains, and the other chains and sets that do not depend on the cluster
//	domains.go      sets of the addresses that domain names were resolved to
//	rules.go        pods' chains, policies' rules and their sets
//	stack.go        the tiers' chains of ClusterNetworkPolicies
//	index.go        long runs of their rules, found by the peer's address
//	told.go         where denied packets go, so that the first of each flow is told
//	staged.go       the staged table: what would be denied with the staged policies in force
//	dns.go          the names table: hands over what pods ask DNS, and are told
//	flooding.go     who is denied so much that no more of it is looked at
//	toldframes.go   the same for frames
//	discovery.go    neighbour and listener discovery
//	icmperrors.go   ICMP errors: those that pods send, and those that they get
//	connections.go  the bound on a pod's connections
//	fragments.go    fragments of datagrams, and how many of them a pod may send
//	groups.go       frames to groups
//	loopback.go     loopback addresses
//	ranges.go       the node's pod ranges, and the masquerade
//	source.go       sources that come from where they are not routed
//	stolen.go       what a bridge would send by another pod's port
//	tagged.go       frames with a VLAN tag, which bridges take off and put on
//	tunnel.go       the tunnel between nodes
//
// Package ruleset/kernel carries Plans out.
package ruleset
