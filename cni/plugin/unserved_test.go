package plugin_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestUnserved: what a pod asks for in vain is told to the agent, by the runtime's own
// words, and does not keep the pod.
func TestUnserved(t *testing.T) {
	const why = "there is no portmap plugin"
	capabilities := map[string]bool{"portMappings": true, "bandwidth": true}
	n := newNode(t, map[string]any{"capabilities": capabilities, "noHostPort": why})
	plain, asking := newPod(t, "plain"), newPod(t, "asking")
	n.mustAdd(plain)
	if said := n.agent.said(plain).Unserved; len(said) > 0 {
		t.Errorf("a pod that asks for nothing: %v", said)
	}
	asking.rt.CapabilityArgs = map[string]any{
		"portMappings": []map[string]any{
			{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
			{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
		},
		"bandwidth": map[string]int{"ingressRate": 1000, "ingressBurst": 1000},
	}
	n.mustAdd(asking)
	said := n.agent.said(asking).Unserved
	if len(said) != 2 || !strings.Contains(said[0], "hostPort 8080/TCP, 53/UDP of hostIP 192.0.2.1 does nothing: "+why) || !strings.Contains(said[1], "bandwidth") {
		t.Errorf("the agent was told %q", said)
	}
	n.mustDel(asking)
	// With portmap in the list, the ports are its business.
	delete(n.conf, "noHostPort")
	n.conf["capabilities"] = map[string]bool{"bandwidth": true}
	n.mustAdd(asking)
	if said := n.agent.said(asking).Unserved; len(said) != 1 || !strings.Contains(said[0], "bandwidth") {
		t.Errorf("the agent was told %q", said)
	}
	// What no runtime says.
	for i, text := range []string{`null`, `{"portMappings": 7}`, `[]`, `{"portMappings": [null]}`, `{"bandwidth": null}`} {
		conf := maps.Clone(n.conf)
		conf["runtimeConfig"], conf["noHostPort"] = json.RawMessage(text), why
		p := newPod(t, string(rune('a'+i)))
		env := []string{"CNI_CONTAINERID=c-odd", "CNI_IFNAME=eth0", "CNI_NETNS=" + p.path, "CNI_ARGS=K8S_POD_NAMESPACE=shop;K8S_POD_NAME=odd"}
		if _, err := n.raw("ADD", env, conf); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := n.raw("DEL", env, conf); err != nil {
			t.Errorf("%s: DEL: %v", text, err)
		}
	}
	if !slices.Contains(n.agent.known(), "c-asking/eth0") {
		t.Error("the pod is not known")
	}
}
