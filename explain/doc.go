// Package explain answers questions about policies: why does A reach B, or not, and what would have to
// change; who reaches whom; and what a change of policies opens and closes. It is pure: a Cluster and a
// Question go in, an Explanation comes out, a value that is printed as text or as JSON. It has no client,
// clock, file or kernel.
//
// What comes in:
//
//	cluster.go          Cluster: the objects that questions are about
//	question.go         Question, and what people write: "deploy/shop/web", "svc/shop/web:80", "10.0.0.1"
//
// How it is answered:
//
//	explainer.go        Explainer: a Cluster, ready for questions; which objects decide about a packet
//	ends.go             which pods, nodes and addresses a target stands for
//	services.go         which endpoints are behind a Service
//	serviceips.go       which addresses are a Service's, and which ports of nodes lead to one
//	owners.go           which workload a pod belongs to
//	classes.go          which ends are alike to all policies, so that one stands for all
//	explain.go          the answers to a Question, each once
//	side.go             what is decided at one end, and by which rules
//	staged.go           which policies are not in force, and what would be if they were
//	rules.go            the rules of both kinds of policies, in one form
//	misses.go           which rules nearly allowed a packet, and what of them did not mean it
//	words.go            that in words
//	nearmiss.go         NearMiss: the same of one packet that an agent has denied
//	open.go             which ports are open
//	placeholders.go     what nobody knows of pods that do not run yet, and have no real addresses
//	hints.go            what policies say and probably do not mean; where nobody enforces it
//	dns.go              whether who may reach another may ask for its name
//
// How all pairs are gone over, for who reaches whom and for what a change opens:
//
//	parties.go          Party: a workload, the nodes or a network; Opening: what is open between two
//	pairs.go            who there is, and which pairs of pods stand for all pairs
//	names.go            domain names: by which one a rule means an address, or why by none
//	networks.go         the networks outside that policies tell apart
//	addresspolicies.go  which policies are about an address, so that Judge sees no more than those
//	openpairs.go        what is open from one party to another
//	reach.go            Reach: who reaches a target, and what it reaches
//	reachmatrix.go      ReachMatrix: who reaches whom
//	policymap.go        Map: the same to be drawn, by namespaces until one is opened
//	mayallow.go         which pairs are closed for certain, so that Judge need not be asked
//	apply.go            Apply: a cluster after objects were applied to it
//	diff.go             Compare: what a change opens and closes
//	changes.go          Changes: what of it an agent has to be told
//	live.go             Live: which open connections a change would cut, by what agents answer
//	liverule.go         the rules that would have to be added for these
//	counterparts.go     which pods of two clusters are held against each other
//
// What goes out:
//
//	explanation.go      Explanation, and how it reads as JSON
//	text.go             how it reads as text
//	reachtext.go        how Reach and ReachMatrix read as text
//	reachgraph.go       the same as graphs, which explain/graph draws
//	difftext.go         how a Diff reads as text
//	probes.go           the packets by which kernels can be asked whether they do as it says
//	verification.go     what they do
//
// The verdict is policy.Judge's. This package adds what Judge leaves out: what names stand for, which
// rules nearly allowed a packet, which ports are open, and what policies do not decide.
package explain
