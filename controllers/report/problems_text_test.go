package report

import (
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// TestEventNamesPolicy: an Event about a ClusterNetworkPolicy names the version that was read, or the
// one that policies are read as.
func TestEventNamesPolicy(t *testing.T) {
	const group = "policy.networking.k8s.io/"
	cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "fence", UID: "uid", ResourceVersion: "7"}}
	for _, c := range []struct{ version, want string }{{"", group + "v1beta1"}, {group + "v1alpha2", group + "v1alpha2"}} {
		cnp.APIVersion = c.version
		want := corev1.ObjectReference{APIVersion: c.want, Kind: "ClusterNetworkPolicy", Name: "fence", UID: "uid", ResourceVersion: "7"}
		if about := aboutPolicy(cnp); about != want {
			t.Errorf("an Event is about %+v, not %+v", about, want)
		}
	}
}

// TestEventFits: whatever a policy is called and whatever is wrong in it, the
// API server takes the Event: a valid name, and a text of its size in UTF-8.
func TestEventFits(t *testing.T) {
	p := &Problems{events: &Events{node: "node"}}
	for _, length := range []int{1, 1000, 1024, 1025, 1026, 1027, 4000} {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: strings.Repeat("a.", 126) + "b"}}
		event := p.events.Warning(aboutPolicy(np), ReasonNotEnforceable, "identity", strings.Repeat("€", length))
		if len(event.Message) > maxEventMessage || !utf8.ValidString(event.Message) {
			t.Errorf("a message of %d bytes, valid %v", len(event.Message), utf8.ValidString(event.Message))
		}
		if wrong := validation.IsDNS1123Subdomain(event.Name); len(wrong) > 0 {
			t.Errorf("%s: %v", event.Name, wrong)
		}
	}
}
