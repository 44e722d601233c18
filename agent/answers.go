package agent

import (
	api "github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/build"
	"github.com/podfence/podfence/controllers/answers"
	"github.com/podfence/podfence/controllers/attachments"
)

// serveAnswers has the manager answer questions about the agent and its node. plugin is nil if no plugin
// is served.
func (a *Agent) serveAnswers(plugin *attachments.Server) error {
	o := a.options
	if o.QueryAddress == "0" || o.QueryAddress == "" {
		return nil
	}
	server := answers.Options{
		Address: o.QueryAddress, Node: o.Node, Build: build.Of(o.Version), Source: o.source(),
		Choices: o.choices(), OwnsTables: o.OwnsTables, BridgeTable: o.Ruleset.Links, ProcSys: o.ProcSys,
		Model: a.Enforcer, Health: a.report.Health, Problems: a.report.Problems, Kernel: o.Query, Supposer: a.Enforcer, Names: a.names(), Flows: a.Flows, Log: o.Log.WithName("answers"),
	}
	if bridge := o.CNI.bridge(); bridge != nil {
		server.BridgeMAC = bridge.MAC
	}
	if plugin != nil {
		server.Waiting = func() (all []api.WaitingPod) {
			for _, w := range plugin.Waiting() {
				all = append(all, api.WaitingPod{Namespace: w.Pod.Namespace, Name: w.Pod.Name, Since: w.Since, Reason: w.Why.Error()})
			}
			return all
		}
	}
	a.answers = answers.New(server)
	return a.Add(a.answers)
}

// choices are those that change verdicts.
func (o *Options) choices() api.Options {
	r := o.Ruleset
	return api.Options{
		CNI: string(o.connect()), Routing: o.Routing,
		AllowToNode: r.AllowToNode, Reject: r.Reject, RevokedMark: r.RevokedMark, MaxConnectionsPerPod: r.MaxConnections,
		SourceCheck: r.SourceCheck, Guard: r.Guard,
	}
}
