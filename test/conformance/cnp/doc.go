// Package cnp runs the conformance suite of ClusterNetworkPolicy, of the module
// sigs.k8s.io/network-policy-api, on a cluster of its own; `make conformance-cnp` does.
//
// Where the kernel has SCTP sockets, the suite runs as it is. Where it has none, an
// agnhost can neither serve SCTP nor connect by it, and what depends on that is left out,
// and nothing else: the containers of the suite's pods that serve SCTP, its tests that
// probe by SCTP alone, and the probes by SCTP of its other tests. The suite has no option
// for the last, so these tests are compiled a second time, from the suite's own source,
// with another package for their probes: see the folders tests and kubernetes. What was
// left out is printed by name, and is in the summary of the report.
//
//	run.sh         clusters, CustomResourceDefinitions, images; runs the suite on them
//	Dockerfile     the image of the suite's pods
//	suite_test.go  the suite (tag conformance)
//	sctp.go        what depends on SCTP
//	base.go        the suite's pods without what serves SCTP
//	outcome.go     what has come of a run, in files
//	kubernetes/    the suite's probes, but for SCTP
//	tests/         the suite's tests with those probes
package cnp
