// Package kind tests podfence on a cluster of kind, which has no network plugin but podfence: `make test-e2e`
// starts it, runs this, and removes it. What takes more than kubectl, such as nodes that lose their power, is in
// test/e2e, on the clusters of `make cluster-up`.
//
//	cluster.yaml     the cluster
//	setup.sh         starts it, or says what is missing
//	run.sh           builds the image, has it on the nodes, and runs the test
//	kind_test.go     the test
package kind
