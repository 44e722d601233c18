// Package manifests reads a folder of YAML and JSON manifests into a
// policy.Snapshot, so that policies can be rendered offline, or enforced on a
// machine that has no API server to ask.
//
//	files.go             which files, and their bytes
//	split.go             bytes to parts, for memory: documents, and the items of lists
//	yaml.go              parts to documents, syntax errors with their line
//	tree.go              a document as a tree that knows the line of everything
//	reads.go             what of an object is read at all
//	check.go             the tree against the Go type: unknown fields, wrong types
//	objects.go           which kinds, lists, defaults
//	validate.go          what the API server would refuse
//	validate_cluster.go  the same of ClusterNetworkPolicies
//	load.go              all files together: duplicates, namespaces nobody wrote
//	kinds.go             kinds that are passed over, and those that resemble one that is read
//	read.go              Read: the same for questions, with workloads and Services; where a field is written
//	standins.go          pods that stand for a workload's, and placeholders as addresses
//	errors.go            what is wrong, with file and line
//	watch.go             when to read again
//
// There is no API server behind a folder, so its refusals happen here, and nothing
// that policy reads is skipped: a misspelt field or an except that does not parse would
// each quietly open what its author meant to close. Objects of other kinds are passed over, and
// counted, as what people have in a folder is more than policies; but not one of a kind that
// resembles a policy's, a pod's or a namespace's, or that is of the group of ClusterNetworkPolicy.
// What policy does not read, such as most of a Pod and every status, is left out
// unseen: there Kubernetes' releases differ.
// One finding makes the whole folder unusable; whoever enforces keeps what it
// had.
//
// What the API server would fill in is filled in: namespace "default",
// policyTypes, protocol TCP, the label kubernetes.io/metadata.name of a
// namespace. A namespace that a pod or policy is in but that no manifest
// defines is added, with just that label; the API server would refuse the pod
// instead, but here it saves writing namespaces that have nothing to say.
//
// Addresses and prefixes are read as the API server reads those it stored
// long ago: leading zeros, IPv4-mapped forms and host bits are accepted. Not so the
// networks of a ClusterNetworkPolicy, which its schema has been strict about from the start.
package manifests
