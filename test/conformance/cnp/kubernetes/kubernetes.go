// Package kubernetes is what the suite's tests import instead of the suite's package of
// the same name where the kernel has no SCTP sockets: everything is the suite's own, but
// probes by SCTP are counted and not sent.
package kubernetes

import (
	"strings"
	"sync"
	"testing"

	k8sclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/network-policy-api/conformance/utils/config"
	suite "sigs.k8s.io/network-policy-api/conformance/utils/kubernetes"
)

// What the tests use beside probes.
var (
	GetClusterNetworkPolicy   = suite.GetClusterNetworkPolicy
	GetNamespace              = suite.GetNamespace
	GetPod                    = suite.GetPod
	PatchClusterNetworkPolicy = suite.PatchClusterNetworkPolicy
	PatchNamespace            = suite.PatchNamespace
	RemovePodLabel            = suite.RemovePodLabel
	SetPodLabel               = suite.SetPodLabel
)

// Count says how many probes of a test were sent, and how many were left out.
type Count struct {
	Sent    int `json:"sent"`
	LeftOut int `json:"leftOut"`
}

var (
	mu     sync.Mutex
	counts = map[string]Count{}
)

// Counts returns those of each test that has begun a probe, by its short name.
func Counts() map[string]Count {
	mu.Lock()
	defer mu.Unlock()
	copied := make(map[string]Count, len(counts))
	for name, n := range counts {
		copied[name] = n
	}
	return copied
}

// PokeServer is the suite's, but for SCTP.
func PokeServer(t *testing.T, client k8sclient.Interface, kubeConfig *rest.Config, clientNamespace, clientPod, protocol, targetHost string, targetPort int32, timeoutConfig config.TimeoutConfig, shouldConnect bool) {
	t.Helper()
	name, send := short(t.Name()), protocol != "sctp"
	mu.Lock()
	n := counts[name]
	if send {
		n.Sent++
	} else {
		n.LeftOut++
	}
	counts[name] = n
	mu.Unlock()
	if !send {
		t.Logf("left out, as the kernel has no SCTP sockets: from %s/%s to %s, port %d; to connect: %t",
			clientNamespace, clientPod, targetHost, targetPort, shouldConnect)
		return
	}
	suite.PokeServer(t, client, kubeConfig, clientNamespace, clientPod, protocol, targetHost, targetPort, timeoutConfig, shouldConnect)
}

// short is the suite's name of the test that a test of Go's is, or is part of: the test
// of Go's that runs the suite has it below itself.
func short(name string) string {
	_, below, _ := strings.Cut(name, "/")
	below, _, _ = strings.Cut(below, "/")
	return below
}
