package cli

import "testing"

// Any service of IPVS counts, whoever has made it; the heading of an empty list does not.
func TestIPVSServices(t *testing.T) {
	const heading = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
	if ipvsService.MatchString(heading) {
		t.Error("a node whose list is empty")
	}
	for _, service := range []string{"TCP  0A600001:01BB rr \n", "UDP  [fd00:0010:0096::000a]:0035 rr \n", "SCTP 0A600001:01BB rr \n", "FWM  00000001 wlc \n"} {
		if !ipvsService.MatchString(heading + service + "  -> 0AF40102:01BB      Masq    1      0          0\n") {
			t.Errorf("not known: %s", service)
		}
	}
}
