package plugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/handshake"
)

const before = `{"cniVersion":"1.1.0",
	"interfaces":[{"name":"cni0","mac":"02:00:00:00:00:01"},{"name":"veth7"},{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/run/netns/a"}],
	"ips":[{"interface":2,"address":"10.9.0.7/24","gateway":"10.9.0.1"},{"interface":0,"address":"10.9.0.1/24"},{"address":"fd09::7/64"}],
	"routes":[{"dst":"0.0.0.0/0"}],"dns":{"search":["shop.svc"]}}`

func TestChained(t *testing.T) {
	n := newNode(t, map[string]any{"mode": "chained", "podCIDRs": nil})
	p := newPod(t, "a")
	env := []string{"CNI_CONTAINERID=c-a", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/a", "CNI_ARGS=K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a"}
	with := func(prev string) map[string]any {
		conf := maps.Clone(n.conf)
		conf["prevResult"] = json.RawMessage(prev)
		return conf
	}
	out, err := n.raw("ADD", env, with(before))
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	if got, want := tree(t, out), tree(t, []byte(before)); got != want {
		t.Errorf("result\n%s, want\n%s", got, want)
	}
	want := handshake.Request{
		Version: 1, Op: handshake.OpAdd, ContainerID: "c-a", IfName: "eth0", Mode: handshake.ModeChained, NetNS: "/run/netns/a",
		Pod: handshake.Pod{Namespace: "shop", Name: "a"}, IPs: parse("10.9.0.7", "fd09::7"), MAC: "02:00:00:00:00:02",
	}
	if said := n.agent.said(p); fmt.Sprint(said) != fmt.Sprint(want) {
		t.Errorf("the agent was told\n%+v, want\n%+v", said, want)
	}
	for _, command := range []string{"CHECK", "STATUS"} {
		if _, err := n.raw(command, env, with(before)); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	if err := n.gc(p); err != nil || len(n.agent.known()) != 1 {
		t.Errorf("GC: %v, the agent knows %v", err, n.agent.known())
	}
	if _, err := n.raw("DEL", env, with(before)); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if left := n.traces(); len(left) > 0 || len(n.leases()) > 0 {
		t.Errorf("left %v, leases %v", left, n.leases())
	}
	for prev, message := range map[string]string{
		`null`:                   "there is no prevResult",
		`{"cniVersion":"1.1.0"}`: "no address",
		`{"cniVersion":"1.1.0","interfaces":[],"ips":[{"interface":1,"address":"10.9.0.7/24"}]}`:                "interface 1 of 0",
		`{"cniVersion":"1.1.0","interfaces":[{"name":"cni0"}],"ips":[{"interface":0,"address":"10.9.0.7/24"}]}`: "no address",
	} {
		if _, err := n.raw("ADD", env, with(prev)); code(err) != 7 || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: code %d, %v", prev, code(err), err)
		}
	}
	n.agent.setAnswer(func(context.Context, handshake.Request) error { return errors.New("br_netfilter is off") })
	if _, err := n.raw("ADD", env, with(before)); code(err) != 11 || !strings.Contains(err.Error(), "br_netfilter is off") {
		t.Errorf("refused: code %d, %v", code(err), err)
	}
	n.agent.stop()
	if _, err := n.raw("ADD", env, with(before)); code(err) != 11 {
		t.Errorf("no agent: code %d, %v", code(err), err)
	}
	if _, err := n.raw("DEL", env, with(before)); err != nil {
		t.Errorf("DEL without an agent: %v", err)
	}
}

// TestOldResult has versions of the specification in which results differ.
func TestOldResult(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0"} {
		n, p := newNode(t, map[string]any{"cniVersion": version}), newPod(t, "a")
		n.mustAdd(p)
		if want := parse("10.244.1.2", "fd00:10:244:1::2"); !slices.Equal(p.ips, want) {
			t.Errorf("version %s: addresses %v", version, p.ips)
		}
		if version != "0.3.1" {
			if err := n.check(p); err != nil {
				t.Errorf("version %s: CHECK: %v", version, err)
			}
		}
		n.mustDel(p)
		n.clean("after DEL")
	}
}

// tree is JSON without its layout.
func tree(t *testing.T, b []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(v)
}

// TestDocumentedConfigurations: what docs/CNI.md tells users to write is what the plugin
// takes, also for a further interface alone.
func TestDocumentedConfigurations(t *testing.T) {
	text, err := os.ReadFile("../../docs/CNI.md")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, nil)
	found := map[string]bool{}
	for _, block := range strings.Split(string(text), "```json\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		var list struct {
			CNIVersion, Name string
			Plugins          []map[string]any
		}
		if err := json.Unmarshal([]byte(block), &list); err != nil {
			t.Errorf("%v: %s", err, block)
		}
		for _, conf := range list.Plugins {
			if conf["type"] != "podfence" {
				continue
			}
			found[list.Name] = true
			for key, value := range map[string]any{
				"cniVersion": list.CNIVersion, "name": list.Name, "socket": n.agent.socket, "prevResult": json.RawMessage(strings.Replace(before, "1.1.0", list.CNIVersion, 1)),
			} {
				conf[key] = value
			}
			env := []string{"CNI_CONTAINERID=c-a", "CNI_IFNAME=net1", "CNI_NETNS=/run/netns/a", "CNI_ARGS=K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a"}
			if _, err := n.raw("ADD", env, conf); err != nil || !slices.Equal(n.agent.known(), []string{"c-a/net1"}) {
				t.Errorf("%s: ADD: %v, the agent knows %v", list.Name, err, n.agent.known())
			}
			if _, err := n.raw("DEL", env, conf); err != nil || len(n.agent.known()) > 0 {
				t.Errorf("%s: DEL: %v, the agent knows %v", list.Name, err, n.agent.known())
			}
		}
	}
	if !found["cbr0"] || !found["backend"] {
		t.Errorf("there are only %v", found)
	}
}
