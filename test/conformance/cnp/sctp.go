package cnp

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"

	"github.com/podfence/podfence/test/conformance/cnp/kubernetes"
)

// onlySCTP are the tests of the suite that have no probes but by SCTP. Without these they
// would pass whatever podfence did, so they are skipped, and the suite counts them as that.
var onlySCTP = []string{
	"CNPAdminTierEgressSCTP",
	"CNPAdminTierIngressSCTP",
	"CNPBaselineTierEgressSCTP",
	"CNPBaselineTierIngressSCTP",
}

// sockets says whether the kernel has SCTP sockets. It loads the module, if there is one.
func sockets() (bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening an SCTP socket: %w", err)
	}
	return true, unix.Close(fd)
}

// same is an error if the tests that were compiled a second time are not the suite's.
func same(own, again []suite.ConformanceTest) error {
	if !slices.EqualFunc(own, again, func(a, b suite.ConformanceTest) bool {
		return a.ShortName == b.ShortName && slices.Equal(a.Features, b.Features) && slices.Equal(a.Manifests, b.Manifests)
	}) {
		return fmt.Errorf("the suite has %d tests, and %d were compiled without SCTP, or others: was it not run.sh that built this?", len(own), len(again))
	}
	return nil
}

// leftOut names, for a summary, the tests that ran without their probes by SCTP: those of
// experimental features, or the others.
func leftOut(tests []suite.ConformanceTest, counts map[string]kubernetes.Count, experimental bool) string {
	var parts []string
	for _, test := range tests {
		if n := counts[test.ShortName]; n.LeftOut > 0 && isExperimental(test) == experimental {
			parts = append(parts, fmt.Sprintf("%s %d of %d", test.ShortName, n.LeftOut, n.LeftOut+n.Sent))
		}
	}
	if parts == nil {
		return ""
	}
	return "probes by SCTP left out, as the kernel has no SCTP sockets: " + strings.Join(parts, ", ")
}

// isExperimental is what the suite counts a test as.
func isExperimental(test suite.ConformanceTest) bool {
	return slices.ContainsFunc(test.Features, suite.CNPConformanceProfile.ExperimentalFeatures.Has)
}
