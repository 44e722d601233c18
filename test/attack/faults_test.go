package attack_test

import (
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/stage"
)

// fault is something that podfence's rules could lack, and the promise that is broken then.
type fault struct {
	what   string
	undo   []string // for nft
	breaks string
}

// faults are made one after the other.
var faults = map[string][]fault{
	"bridge, vxlan": {
		{"nobody looks where pods' sources come from", []string{"flush", "chain", "inet", nft.TableName, "sources-prerouting"}, "a pod's source comes from where the route to the pod leads"},
		{"nobody looks what ICMP errors are about", []string{"flush", "chain", "inet", nft.TableName, "errors-sent"}, "a pod's ICMP errors are about its own flows"},
		{"nobody looks who uses the tunnel", []string{"flush", "chain", "inet", nft.TableName, "into-tunnel"}, "only nodes use the tunnel"},
		{"router messages pass", []string{"flush", "set", "bridge", nft.TableName, "router-messages"}, "no pod is a router"},
		{"the guard is gone", []string{"delete", "table", "bridge", nft.TableName}, "a pod sends with its own addresses, to its gateway"},
		{"no policies", []string{"delete", "table", "inet", nft.TableName}, "an isolated pod sends nothing and gets nothing"},
	},
	"chained, a bridge": {
		{"router messages pass", []string{"flush", "set", "bridge", nft.TableName, "discovery-router-messages"}, "no pod is a router"},
		{"nobody looks at frames", []string{"delete", "table", "bridge", nft.TableName}, "no pod wraps anything up"},
		{"no policies", []string{"delete", "table", "inet", nft.TableName}, "an isolated pod sends nothing and gets nothing"},
	},
	"chained, routed": {
		{"loopback addresses are like any other", []string{"flush", "set", "inet", nft.TableName, "loopback-4"}, "the node's loopback addresses are out of pods' reach"},
	},
}

// oracle takes some of podfence's rules away: the oracle must notice, by the attacks.
func (s *scene) oracle() {
	s.T.Helper()
	s.Stop()
	for _, f := range faults[s.Mode.Name] {
		s.Must(s.Node.Do(func() error { return stage.Run("nft", f.undo...) }))
		broken := map[string]int{}
		for _, o := range s.attack() {
			for promise, n := range o.promises {
				broken[promise] += n
			}
		}
		s.T.Logf("%s: broken: %v", f.what, broken)
		if broken[f.breaks] == 0 {
			s.T.Errorf("%s, and nothing has come of which the oracle says that it is not so that %s", f.what, f.breaks)
		}
	}
}
