package report

import (
	"strings"
	"testing"
	"unicode/utf8"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// TestEventFits: whatever a policy is called and whatever is wrong in it, the
// API server takes the Event: a valid name, and a text of its size in UTF-8.
func TestEventFits(t *testing.T) {
	p := &Problems{events: &Events{node: "node"}}
	for _, length := range []int{1, 1000, 1024, 1025, 1026, 1027, 4000} {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: strings.Repeat("a.", 126) + "b"}}
		event := p.event(np, "identity", strings.Repeat("€", length))
		if len(event.Message) > maxEventMessage || !utf8.ValidString(event.Message) {
			t.Errorf("a message of %d bytes, valid %v", len(event.Message), utf8.ValidString(event.Message))
		}
		if wrong := validation.IsDNS1123Subdomain(event.Name); len(wrong) > 0 {
			t.Errorf("%s: %v", event.Name, wrong)
		}
	}
}
