package agent

import (
	"maps"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/controllers/report"
)

// checks are those of the options and, where another plugin connects the pods and is not told of podfence, one
// for bridges of its.
func (a *Agent) checks() map[report.Condition]func() error {
	checks := maps.Clone(a.options.Checks)
	if a.options.connect() != ConnectNone || a.options.PodLinks == nil || a.options.ProcSys == "" {
		return checks
	}
	if checks == nil {
		checks = map[report.Condition]func() error{}
	}
	checks[report.BridgeNetfilterOff] = func() error {
		if a.Enforcer == nil || !a.Enforcer.PodsBehindBridge() {
			return nil
		}
		return node.BridgeNetfilterIsOn(a.options.ProcSys)
	}
	return checks
}
