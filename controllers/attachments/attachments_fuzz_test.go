package attachments

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

// FuzzAttachment: whatever is in a file that keeps an attachment, reading it does
// not panic; what is taken for one can be enforced, and is the same once written
// and read again.
func FuzzAttachment(f *testing.F) {
	for _, text := range []string{
		`{"ContainerID":"c1","IfName":"eth0","Pod":{"Namespace":"shop","Name":"web"},"UID":"u","IPs":["10.244.1.7","fd00::7"],"HostInterface":"pf","MAC":[2,0,0,0,0,1]}`,
		`{"ContainerID":"c1","IfName":"eth0","Pod":{"Namespace":"shop","Name":"web"},"IPs":[""]}`,
		`{"ContainerID":"c1","IfName":"eth0","Pod":{"Namespace":"shop","Name":"web"},"IPs":["::ffff:10.0.0.1","fe80::1%lo"],"MAC":[1,2,3,4,5,6,7,8]}`,
		`{"ContainerID":"c1"}`, `{"Contai`, `null`, `[]`, ``, "\x00\x00\x00",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, ok := parseAttachment(data)
		if !ok {
			return
		}
		m := policy.NewModel("node")
		m.Apply(policy.SetPod(&policy.Pod{Key: a.Pod, UID: a.UID, Node: "node"}))
		m.Apply(policy.SetAttachment(a))
		if in := m.Intent(); len(in.Subjects[a.Pod].IPs) == 0 {
			t.Errorf("%q gives pod %s no address", data, a.Pod)
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if again, ok := parseAttachment(text); !ok || !reflect.DeepEqual(again, a) {
			t.Errorf("%q is %+v, and once more %+v", data, a, again)
		}
	})
}

// TestLoadHostile: of a folder with all that can be wrong in one, what is right
// is loaded, and the rest is removed.
func TestLoadHostile(t *testing.T) {
	s := store(t.TempDir())
	at := handshake.Attachment{ContainerID: "c1", IfName: "eth0"}
	good := policy.Attachment{ContainerID: "c1", IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: "web"}, IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}
	if err := s.save(at, good); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.path(at))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty.json": "", "torn.json": string(data[:len(data)/2]), "garbage.json": "\x00\xff", "null.json": "null",
		"another.eth0.json": string(data), // c1's, under a name by which it would never be removed
		"c2.eth0.json":      `{"ContainerID":"c2","IfName":"eth0","Pod":{"Namespace":"shop","Name":"web"},"IPs":[""]}`,
		"c3.eth0.json":      `{"ContainerID":"c3","IfName":"eth0","Pod":{"Namespace":"shop","Name":"web"},"IPs":["0.0.0.0"]}`,
		"c4.eth0.json":      `{"ContainerID":"c4","IfName":"eth0","IPs":["10.244.1.9"]}`,
	} {
		if err := os.WriteFile(filepath.Join(string(s), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	known, err := s.load()
	if err != nil || len(known) != 1 || !reflect.DeepEqual(known[at], good) {
		t.Errorf("loaded %v (%v)", known, err)
	}
	if files, err := os.ReadDir(string(s)); err != nil || len(files) != 1 {
		t.Errorf("%v is left (%v)", files, err)
	}
}
