package agent

import (
	"testing"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
)

// TestChecks: where another plugin connects the pods, and nobody tells the agent of them, it looks after bridges;
// nowhere else, and no check that it was given is left out.
func TestChecks(t *testing.T) {
	none := func() error { return nil }
	given := map[report.Condition]func() error{report.IPVSProxy: none}
	links := enforcer.PodLinks(&node.PodLinks{})
	for name, c := range map[string]struct {
		options Options
		looks   bool
	}{
		"policy alone":           {Options{Checks: given, PodLinks: links, ProcSys: "/nowhere"}, true},
		"without other checks":   {Options{PodLinks: links, ProcSys: "/nowhere"}, true},
		"nowhere to look":        {Options{Checks: given, PodLinks: links}, false},
		"no links to look for":   {Options{Checks: given, ProcSys: "/nowhere"}, false},
		"behind another plugin":  {Options{Checks: given, PodLinks: links, ProcSys: "/nowhere", CNI: &CNI{}}, false},
		"podfence connects pods": {Options{Checks: given, ProcSys: "/nowhere", CNI: &CNI{Bridge: &enforcer.Bridge{}}}, false},
	} {
		a := &Agent{options: c.options}
		checks := a.checks()
		look, looks := checks[report.BridgeNetfilterOff]
		if looks != c.looks || c.options.Checks != nil && checks[report.IPVSProxy] == nil || len(given) != 1 {
			t.Errorf("%s: looks %t", name, looks)
		}
		if looks && look() != nil {
			t.Errorf("%s: no pods are there yet, and it says %v", name, look())
		}
	}
}
