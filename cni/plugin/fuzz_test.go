package plugin_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/plugin"
)

// FuzzReadConfig: whatever a container runtime writes to the plugin's standard
// input, reading it does not panic, nor does making a request of the previous
// plugin's result; and what is accepted can be worked with.
func FuzzReadConfig(f *testing.F) {
	for _, text := range []string{
		`{"cniVersion":"1.1.0","name":"pods","type":"podfence","podCIDRs":["10.244.1.0/24","fd00::/64"],"mtu":1400,"dns":{"nameservers":["x"]}}`,
		`{"cniVersion":"1.0.0","mode":"chained","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/n"}],"ips":[{"interface":0,"address":"10.1.0.2/24"}],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		`{"cniVersion":"1.0.0","mode":"chained","prevResult":{"cniVersion":"1.0.0","interfaces":[null],"ips":[null,{"interface":0},{"interface":-1,"address":"10.1.0.2/24"}],"routes":[null]}}`,
		`{"cniVersion":"0.3.1","mode":"chained","prevResult":{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.2/24","interface":9}]}}`,
		`{"cniVersion":"0.2.0","prevResult":{"ip4":{"ip":"10.1.0.2/24"}}}`,
		`{"cniVersion":"1.1.0","prevResult":{"cniVersion":"0.4.0","interfaces":[null],"ips":[null],"routes":[null]}}`,
		`{"cni.dev/valid-attachments":null}`, `{"cni.dev/valid-attachments":[{"containerID":"","ifname":7}]}`,
		`{"podCIDRs":["::ffff:10.0.0.0/120"],"bridge":"a/b","dataDir":"../x","socket":"\u0000","timeout":-1}`, `null`, `[]`, ``,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c, err := plugin.ReadConfig(stdin)
		if err != nil {
			return
		}
		if c.Bridge == "" || !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.Socket) || c.Timeout() <= 0 || c.Timeout() > plugin.DefaultTimeout*360 {
			t.Errorf("%q gives %+v", stdin, c)
		}
		for _, cidr := range c.PodCIDRs {
			if !cidr.Contains(plugin.Gateway(cidr)) {
				t.Errorf("gateway %s of %s", plugin.Gateway(cidr), cidr)
			}
		}
		if c.PrevResult == nil {
			return
		}
		r, err := plugin.Chained(c.PrevResult)
		if err == nil && (len(r.IPs) == 0 || !r.IPs[0].IsValid()) {
			t.Errorf("%q gives %+v", stdin, r)
		}
		if _, err := json.Marshal(c.PrevResult); err != nil {
			t.Logf("the result can't be passed on: %v", err)
		}
	})
}

// FuzzReadPod: no CNI_ARGS makes the plugin panic, or gives a pod without a name.
func FuzzReadPod(f *testing.F) {
	for _, args := range []string{
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=8c;K8S_POD_UID=0f",
		"K8S_POD_NAMESPACE=;K8S_POD_NAME=", ";;=;", "K8S_POD_NAME=a=b;K8S_POD_NAMESPACE=\x00\n", "x",
	} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, args string) {
		pod, err := plugin.ReadPod(args)
		if (err == nil) != (pod.Namespace != "" && pod.Name != "") && err == nil {
			t.Errorf("%q gives %+v", args, pod)
		}
		if strings.Contains(pod.Name+pod.Namespace+pod.UID, ";") {
			t.Errorf("%q gives %+v", args, pod)
		}
	})
}

// FuzzLease: whatever is in a lease's file, reading it does not panic, and gives
// an owner whole or none.
func FuzzLease(f *testing.F) {
	for _, text := range []string{"8c\r\neth0", "8c\neth0", "8c", "", "\r\neth0", "8c\r\n", "\x00", strings.Repeat("x", 5000) + "\r\neth0", " \r\n 8c\r\neth0\r\n"} {
		f.Add([]byte(text))
	}
	path := f.TempDir()
	dir, err := os.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	defer dir.Close()
	f.Fuzz(func(t *testing.T, text []byte) {
		name := netip.AddrFrom4([4]byte{10, 244, 1, 7}).String()
		if err := os.WriteFile(filepath.Join(path, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		id, ifName, err := plugin.ReadOwner(dir, name)
		if err != nil || (id == "") != (ifName == "") {
			t.Errorf("%q is leased to %q %q (%v)", text, id, ifName, err)
		}
	})
}
