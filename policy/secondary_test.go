package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestSecondaryAttachment: the address that the API shows is the pod's own as long as there is no
// attachment of the interface that it is about. In whatever order attachments come, the model
// ends up the same, and the same as Compile.
func TestSecondaryAttachment(t *testing.T) {
	addr := netip.MustParseAddr
	key := policy.Key{Namespace: "shop", Name: "web"}
	pod := policy.Pod{Key: key, UID: "uid-1", Node: random.Node, IPs: []netip.Addr{addr("10.244.1.7")}}
	eth0 := policy.Attachment{ContainerID: "c1", IfName: "eth0", Pod: key, UID: "uid-1", IPs: []netip.Addr{addr("10.244.1.8")}}
	net1 := policy.Attachment{ContainerID: "c1", IfName: "net1", Pod: key, UID: "uid-1", IPs: []netip.Addr{addr("192.0.2.9")}}
	for name, c := range map[string]struct {
		attachments []policy.Attachment
		want        []netip.Addr
	}{
		"none":               {nil, pod.IPs},
		"the secondary":      {[]policy.Attachment{net1}, []netip.Addr{addr("10.244.1.7"), addr("192.0.2.9")}},
		"the primary":        {[]policy.Attachment{eth0}, eth0.IPs},
		"both":               {[]policy.Attachment{eth0, net1}, []netip.Addr{addr("10.244.1.8"), addr("192.0.2.9")}},
		"both, other order":  {[]policy.Attachment{net1, eth0}, []netip.Addr{addr("10.244.1.8"), addr("192.0.2.9")}},
		"primary of another": {[]policy.Attachment{{ContainerID: "c0", IfName: "eth0", Pod: key, UID: "uid-0", IPs: eth0.IPs}, net1}, []netip.Addr{addr("10.244.1.7"), addr("192.0.2.9")}},
	} {
		for _, podFirst := range []bool{true, false} {
			m := policy.NewModel(random.Node)
			if podFirst {
				m.Apply(policy.SetPod(&pod))
			}
			for _, a := range c.attachments {
				m.Apply(policy.SetAttachment(a))
			}
			if !podFirst {
				m.Apply(policy.SetPod(&pod))
			}
			if have := m.Intent().Subjects[key].IPs; !slices.Equal(have, c.want) {
				t.Errorf("%s: %v are the pod's, want %v", name, have, c.want)
			}
			for _, a := range c.attachments {
				if _, known := m.Attached(a); known != (a.UID == "uid-1") {
					t.Errorf("%s: %s is attached: %t", name, a.IfName, known)
				}
			}
			// When they are gone, all is as the API shows it.
			for _, a := range c.attachments {
				m.Apply(policy.DeleteAttachment(a.ContainerID, a.IfName))
			}
			if have := m.Intent().Subjects[key].IPs; !slices.Equal(have, pod.IPs) {
				t.Errorf("%s, and gone: %v are the pod's", name, have)
			}
		}
	}
}
