package kernel

import "testing"

// TestIsLate: kernels whose sets of address ranges come late are told by their releases.
func TestIsLate(t *testing.T) {
	for release, want := range map[string]bool{"5.15.0-1-amd64": false, "6.18.44": false, "6.19.0-rc1": true, "7.0": true, "5.14.0-503.el9.x86_64": true, "10.1.2": true, "": true, "next": true} {
		if isLate(release) != want {
			t.Errorf("%q is late: %t", release, !want)
		}
	}
}
