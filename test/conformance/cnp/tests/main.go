// Package tests is where the suite's tests are compiled a second time, with the probes
// of this module's package kubernetes instead of the suite's own. There is no copy of
// them here: run.sh takes them from the module sigs.k8s.io/network-policy-api, changes
// the one line of each file that imports the probes, and has go build see the result
// in this folder, by -overlay. Only what is below is there without that.
package tests

import "sigs.k8s.io/network-policy-api/conformance/utils/suite"

// ConformanceTests are the suite's tests.
var ConformanceTests []suite.ConformanceTest
