package plugin_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"regexp"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/cni/plugin"
)

func TestReadConfig(t *testing.T) {
	c, err := plugin.ReadConfig([]byte(`{"cniVersion":"1.1.0","name":"pods","type":"podfence","podCIDRs":["10.244.1.0/24","fd00::/64"],
		"capabilities":{"bandwidth":true},"runtimeConfig":{"x":1},"somethingNew":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &plugin.Config{
		CNIVersion: "1.1.0", Name: "pods", Bridge: plugin.DefaultBridge, DataDir: plugin.DefaultDataDir,
		Socket: handshake.DefaultSocket, TimeoutSeconds: 10, RuntimeConfig: json.RawMessage(`{"x":1}`),
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00::/64")},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	if c.Timeout() != plugin.DefaultTimeout || c.Timeout() != 10*time.Second || c.Chained() {
		t.Errorf("timeout %v, chained %v", c.Timeout(), c.Chained())
	}
	for text, valid := range map[string][]types.GCAttachment{
		`{}`:                                 {},
		`{"cni.dev/valid-attachments":null}`: {},
		`{"cni.dev/valid-attachments":[]}`:   {},
		`{"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}`: {{ContainerID: "c", IfName: "eth0"}},
	} {
		if text == `{}` {
			valid = nil // not said, and not the same as none
		}
		c, err := plugin.ReadConfig([]byte(text))
		if err != nil || !reflect.DeepEqual(c.Valid, valid) {
			t.Errorf("%s: valid %#v, %v", text, c.Valid, err)
		}
	}
}

func TestNames(t *testing.T) {
	form := regexp.MustCompile(`^pf[a-z2-7]{13}$`)
	names, macs := map[string]bool{}, map[string]bool{}
	for _, at := range [][2]string{{"c", "eth0"}, {"c", "eth1"}, {"d", "eth0"}, {"ce", "th0"}} {
		name, mac := plugin.LinkName(at[0], at[1]), plugin.PodMAC(at[0], at[1])
		if !form.MatchString(name) || name != plugin.LinkName(at[0], at[1]) {
			t.Errorf("%v: name %s", at, name)
		}
		if len(mac) != 6 || mac[0]&0x03 != 0x02 || mac.String() != plugin.PodMAC(at[0], at[1]).String() {
			t.Errorf("%v: MAC %s", at, mac)
		}
		names[name], macs[mac.String()] = true, true
	}
	if len(names) != 4 || len(macs) != 4 {
		t.Errorf("names %v, MACs %v", names, macs)
	}
	if a, b := plugin.BridgeMAC("podfence0"), plugin.BridgeMAC("podfence1"); a.String() == b.String() || a[0]&0x03 != 0x02 {
		t.Errorf("bridges' MACs %s, %s", a, b)
	}
	for cidr, gateway := range map[string]string{"10.244.1.0/24": "10.244.1.1", "fd00:1::/64": "fd00:1::1"} {
		if got := plugin.Gateway(netip.MustParsePrefix(cidr)); got.String() != gateway {
			t.Errorf("%s: gateway %s", cidr, got)
		}
	}
}
