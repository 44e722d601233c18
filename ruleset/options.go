package ruleset

// Options are the choices that change the table.
type Options struct {
	// Reject answers denied packets with an ICMP error; else they are dropped.
	Reject bool
	// AllowToNode lets pods reach their own node whatever their egress policies
	// say; else they are policed there too.
	AllowToNode bool
	// Guard: there is the table that BuildGuard makes, too. This one then closes
	// what goes round it: see portsChain.
	Guard bool
	// Links: another plugin connects the pods. What is not of their own addresses is then
	// closed by their links, see Links.
	Links bool
	// Masquerade gives what pods send to outside the cluster the node's address.
	Masquerade bool
	// SourceCheck drops what has a pod's source and comes from elsewhere than where the
	// route to that pod leads. See sourceChain.
	SourceCheck bool
	// Bridge is the name of the bridge whose ports have the guard, which has checked the
	// sources of what comes by it. Empty: there is none.
	Bridge string
	// TunnelPort is the UDP port at which the node takes what is in a tunnel for
	// sent by pods of other nodes. Zero: there is none. See tunnelChain.
	TunnelPort uint16
	// Fragments is what the node has for fragments.
	Fragments FragmentMemory
	// MaxConnections is how many connections a pod may have begun that connection tracking
	// knows, of each family. Zero: as many as it likes. See connectionsChain.
	MaxConnections uint32
	// RevokedMark is the bit of the conntrack mark that says that a flow has
	// been revoked. Zero: none is looked for.
	RevokedMark uint32
}
