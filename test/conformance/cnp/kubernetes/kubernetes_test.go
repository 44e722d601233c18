package kubernetes

import (
	"testing"

	"sigs.k8s.io/network-policy-api/conformance/utils/config"
)

// TestLeftOut: a probe by SCTP is counted for the suite's test that it is of, and not sent,
// for which there is no client here.
func TestLeftOut(t *testing.T) {
	t.Run("CNPAdminTierGress", func(t *testing.T) {
		for _, connect := range []bool{true, false} {
			t.Run("Should support an 'allow'/'deny' policy", func(t *testing.T) {
				PokeServer(t, nil, nil, "ns", "pod-0", "sctp", "192.0.2.1", 9003, config.TimeoutConfig{}, connect)
			})
		}
	})
	if got, want := Counts()["CNPAdminTierGress"], (Count{LeftOut: 2}); len(Counts()) != 1 || got != want {
		t.Errorf("%+v, want %+v alone", Counts(), want)
	}
}
