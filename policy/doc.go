// Package policy says what NetworkPolicies and ClusterNetworkPolicies mean.
//
// It is pure: API objects go in, plain values come out. It has no client, no
// clock, no logger and no netlink, so all of it can be tested by tables.
//
//	Parse      one NetworkPolicy, read once: selectors, ranges, ports; ParseCluster one
//	           ClusterNetworkPolicy
//	Change     an object of the API or an attachment as it is now, or its end;
//	           a value, and the only way into the model (change.go)
//	Model      the cluster, kept up to date by changes; Take hands out what has
//	           changed for one node's pods
//	Compile    the same from scratch: slow, obvious, the Model's specification
//	Judge      the verdict on one packet straight from the API objects, with
//	           the policy and rule that gave it; reads them by itself, and shares
//	           nothing that decides with the two above, so that each can be tested
//	           against the other
//
// What comes in, and what goes out:
//
//	change.go    Change, and Apply
//	objects.go   pods, namespaces and nodes, as far as policy sees them
//	snapshot.go  a whole cluster at one moment, with what one node knows better
//	intent.go    all that a node must enforce, and the Delta by which that changes
//	packet.go    packet.Packet and packet.Protocol, by policy's own names
//	verdict.go   what becomes of a packet, and why
//
// What a policy says:
//
//	parse.go     a NetworkPolicy, read: its rules, and what of it is wrong
//	selector.go  which pods it means, in canonical text
//	labels.go    labels, each set of them held once
//	block.go     ipBlocks as ranges of addresses
//	port.go      ranges of ports, port names
//	parse_cluster.go  a ClusterNetworkPolicy, read
//	form.go      rules merged to the form that they are enforced in
//	size.go      how large a policy may be
//	section.go   large policies, in parts
//
// The model:
//
//	model.go       Model: takes changes in
//	selecting.go   policies, and how many of this node's pods each selects
//	subject.go     this node's pods, and the policies that isolate them
//	stack.go       this node's pods, and the ClusterNetworkPolicies that are about them, in order
//	members.go     how the members of peers and named ports differ from what was handed out
//	meant.go       which pods a selector or a port name means
//	nodepeers.go   which addresses of nodes a selector means
//	staged.go      policies that are not in force, and a model in which they are
//	owners.go      whose an address is
//	ends.go        what is known of the two ends of a packet
//	resolutions.go  what domain names are resolved to, until when, and for whom
//	domain.go      domain names as peers, and what addresses they were told to have
//	doubt.go       addresses of which nobody can tell what denies to them
//	attachment.go  what the CNI plugin has connected
//	announced.go   what the agents of other nodes have announced of their pods
//	local.go       addresses of this node's containers, for those who look for their links
//	take.go        hands out what has changed
//	portion.go     hands it out bit by bit where it is much
//	budget.go      what the policies of a namespace may take
//	quarantine.go  policies that isolate their pods and allow nothing
//	counts.go      how much there is
//	suppose.go     what would be if some objects were others
//
// What the model is held against:
//
//	compile.go        the intent from scratch
//	judge.go          the verdict on one packet, straight from the API objects
//	judge_cluster.go  what ClusterNetworkPolicies decide of it
//	judge_read.go     what the objects' fields mean to it
//
// Words: a subject is a pod of the node that has an address, a peer what a policy's
// rules name. A subject is isolated for a direction when some NetworkPolicy selects it and lists
// that direction in its policyTypes; it then gets only what a rule allows. It is fenced for a
// direction if it is isolated, or has a stack there: the ClusterNetworkPolicies of a tier that are
// about it, in the order in which a packet meets them.
//
// In Policy and Rule, as in the API, an absent list and an empty one differ in
// meaning from place to place; each field says which it is. Values that leave
// this package are sorted and must not be changed by whoever gets them.
package policy
