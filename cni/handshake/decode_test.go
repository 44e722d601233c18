package handshake

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// FuzzDecode: no line makes the agent's reading panic. What it accepts is
// complete, and means the same once written out and read again.
func FuzzDecode(f *testing.F) {
	for _, line := range []string{
		`{"version":1,"op":"add","containerID":"8c","ifName":"eth0","pod":{"namespace":"shop","name":"web-0","uid":"0f"},"ips":["10.244.1.7","fd00::7"],"mac":"ae:00:00:00:00:01","hostInterface":"pf","netNS":"/run/netns/x"}`,
		`{"version":1,"op":"del","containerID":"8c","ifName":"eth0"}`,
		`{"version":1,"op":"gc","attachments":[{"containerID":"8c","ifName":"eth0"}]}`,
		`{"version":1,"op":"gc","attachments":null}`,
		`{"version":1,"op":"status"}`,
		`{"version":1,"op":"del","containerID":"../../etc/passwd","ifName":"eth0"}`,
		`{"version":1,"op":"del","containerID":"c\n","ifName":"a/b"}`,
		`{"version":1,"VERSION":2,"op":"status"}`,
		`{"version":1e0}`, `null`, `[]`, "\x00", strings.Repeat("[", 10_001),
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decode(line)
		if err != nil {
			return
		}
		if r.Version != Version || r.check() != nil {
			t.Errorf("%q gives %+v", line, r)
		}
		if r.Op == OpAdd || r.Op == OpDel {
			name := r.ContainerID + "." + r.IfName
			if filepath.Base(name) != name || strings.ContainsAny(name, "/\x00") || r.Op == OpAdd && len(r.IPs) == 0 {
				t.Errorf("%q gives %+v", line, r)
			}
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("%+v can't be written: %v", r, err)
		}
		if again, err := decode(text); err != nil || !reflect.DeepEqual(again, normal(r)) {
			t.Errorf("%q is %+v, and once more %+v (%v)", line, r, again, err)
		}
	})
}

// normal has no list that is there and empty, where JSON leaves such out.
func normal(r Request) Request {
	if len(r.IPs) == 0 {
		r.IPs = nil
	}
	return r
}
