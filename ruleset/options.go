package ruleset

// Options are the choices that change the table.
type Options struct {
	// Staged makes it the staged table: see ForStaged.
	Staged bool
	// Reject answers denied packets with an ICMP error; else they are dropped.
	Reject bool
	// AllowToNode lets pods reach their own node whatever their egress policies
	// say; else they are policed there too.
	AllowToNode bool
	// Guard: the table that BuildGuard makes exists as well. This one then closes the ways
	// round that: see portsChain.
	Guard bool
	// Links: another plugin connects the pods. What does not have their own addresses is then
	// closed by their links, see Links.
	Links bool
	// Masquerade gives the node's address to what pods send to the outside of the cluster.
	Masquerade bool
	// SourceCheck drops what has a pod's address as its source, but comes from elsewhere than
	// where the route to that pod leads. See sourcesChain.
	SourceCheck bool
	// Bridge is the name of the bridge whose ports have the guard: sources of what comes by this
	// bridge have been checked. Empty: there is none.
	Bridge string
	// TunnelPort is the UDP port of the tunnel. The node takes what arrives there in the tunnel
	// for sent by pods of other nodes. Zero: there is no tunnel. See tunnelChains.
	TunnelPort uint16
	// Fragments is the memory that the node has for fragments.
	Fragments FragmentMemory
	// MaxConnections is how many connections of each family that connection tracking knows a pod
	// may have begun. Zero: as many as it likes. See connectionsChain.
	MaxConnections uint32
	// LongRun is how many rules of ClusterNetworkPolicies in a row are found by the peer's address, see
	// index. Zero: as many as DefaultLongRun.
	LongRun int
	// LogGroup is the nflog group that denied packets are told to, the first of each flow: see
	// deniedChain. Zero: none is told.
	LogGroup uint16
	// RevokedMark is the bit of the conntrack mark that says that a flow has been revoked. Zero:
	// no rule looks for such a mark.
	RevokedMark uint32
}
