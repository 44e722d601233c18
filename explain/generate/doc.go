// Package generate writes the NetworkPolicies that let pass what was seen, and nothing else. It is pure: a
// cluster's objects and flows go in; policies, and a report on what they cover, come out. The same flows in
// any order make the same bytes.
//
//	generate.go     Generate: the steps, in order
//	options.go      what is asked for, and what comes of it
//	ends.go         who is at the ends of a flow, also if the pod is gone by now
//	connections.go  flows to connections, each once; which need no rule
//	workloads.go    pods to workloads; the labels that select one workload and no other
//	needs.go        what the rules of a workload must let pass
//	rules.go        that as rules: peers and ports
//	blocks.go       addresses outside the cluster, grouped to networks
//	dns.go          the cluster's DNS, which everyone may ask
//	policies.go     a policy for each workload, and its name
//	yaml.go         policies as YAML, with comments
//	check.go        whether all that was seen passes once the policies are there
//	open.go         what stays open though nothing was seen of it
//	report.go       Report, and how it reads as text
//
// Words: a workload is what makes pods of one template, such as a Deployment; a unit is a workload, or several
// that no labels tell apart. A flow is what an agent tells of a connection, so that there are several for each.
package generate
