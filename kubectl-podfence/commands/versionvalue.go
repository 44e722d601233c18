package commands

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/api/build"
	"github.com/podfence/podfence/explain"
)

// Versions are those of this plugin and of the agents that it has asked.
type Versions struct {
	APIVersion string     `json:"apiVersion"` // build.APIVersion
	Kind       string     `json:"kind"`       // Versions
	Client     build.Info `json:"client"`
	// Agents are those of the nodes, in order; empty: none was asked.
	Agents []AgentVersion `json:"agents,omitempty"`
	// Notes say which versions are too far apart (VersionSkew), and what is not known, such as nodes that the user
	// may not list.
	Notes []explain.Note `json:"notes,omitempty"`
}

// AgentVersion is the version of a node's agent.
type AgentVersion struct {
	Node string `json:"node,omitempty"`
	// Agent is the agent's pod (NAMESPACE/NAME), or the address at which it was asked.
	Agent string `json:"agent,omitempty"`
	// Build is what it was built of; absent: it has not answered, and Message says why.
	Build   *build.Info `json:"build,omitempty"`
	Message string      `json:"message,omitempty"`
}

// versionSkew is the reason of notes about versions that are too far apart.
const versionSkew = "VersionSkew"

// versionOf is the version that an agent has answered with. Agents of before say nothing else of themselves.
func versionOf(of *NodeStatus) AgentVersion {
	v := AgentVersion{Node: of.Node, Agent: of.Agent}
	switch {
	case of.Answer == nil:
		v.Message = of.Message
	case of.Answer.Build != nil:
		v.Build = of.Answer.Build
	default:
		v.Build = &build.Info{Version: of.Answer.AgentVersion}
	}
	return v
}

// release is the release that a version is, or comes after; nil: it is none, such as a commit, or v0.0.0-…, as Go
// calls what comes after none.
func release(of string) *version.Version {
	if !strings.HasPrefix(of, "v") {
		return nil
	}
	v, err := version.ParseSemantic(of)
	if err != nil || v.Major() == 0 && v.Minor() == 0 && v.Patch() == 0 {
		return nil
	}
	return v
}

// together reports whether two releases go together: one minor version apart at most.
func together(a, b *version.Version) bool {
	return a.Major() == b.Major() && max(a.Minor(), b.Minor())-min(a.Minor(), b.Minor()) <= 1
}

// compare notes what does not go together: the oldest agent and the newest, and this plugin and either.
func (v *Versions) compare() {
	var oldest, newest *AgentVersion
	for i := range v.Agents {
		agent := &v.Agents[i]
		if agent.Build == nil || release(agent.Build.Version) == nil {
			continue
		}
		if oldest == nil || release(agent.Build.Version).LessThan(release(oldest.Build.Version)) {
			oldest = agent
		}
		if newest == nil || release(newest.Build.Version).LessThan(release(agent.Build.Version)) {
			newest = agent
		}
	}
	if oldest == nil {
		return
	}
	note := func(format string, args ...any) {
		v.Notes = append(v.Notes, explain.Note{Reason: versionSkew, Message: fmt.Sprintf(format, args...)})
	}
	if !together(release(oldest.Build.Version), release(newest.Build.Version)) {
		note("Agents differ by more than one minor version: %s, and %s. Bring them to one version, one minor version at a time (docs/UPGRADING.md).", oldest.text(), newest.text())
	}
	own := release(v.Client.Version)
	for _, agent := range slices.Compact([]*AgentVersion{oldest, newest}) {
		if own != nil && !together(own, release(agent.Build.Version)) {
			note("This plugin, %s, and the agents differ by more than one minor version: %s. Use the plugin of the agents' release.", v.Client.Version, agent.text())
		}
	}
}

// text is which agent it is, and its version.
func (a *AgentVersion) text() string {
	return fmt.Sprintf("%s on %s", a.Build.Version, cmp.Or(a.Node, a.Agent))
}

// apart reports whether compare has found versions that are too far apart.
func (v *Versions) apart() bool {
	return slices.ContainsFunc(v.Notes, func(n explain.Note) bool { return n.Reason == versionSkew })
}

// writeText writes the versions for people.
func (v *Versions) writeText(w io.Writer, o *output) error {
	var b strings.Builder
	b.WriteString(v.Client.Text("kubectl podfence", "  "))
	if len(v.Agents) > 0 {
		b.WriteString("\n")
		if err := o.table(&b, v.table()); err != nil {
			return err
		}
	}
	for _, agent := range v.Agents {
		if agent.Message != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", cmp.Or(agent.Node, agent.Agent), printers.EscapeTerminal(agent.Message))
		}
	}
	for _, n := range v.Notes {
		fmt.Fprintf(&b, "note: %s\n", printers.EscapeTerminal(n.Message))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// table has a row for each agent.
func (v *Versions) table() *metav1.Table {
	table := &metav1.Table{}
	for _, name := range []string{"Node", "Version", "Commit", "Date", "Go", "Platform"} {
		table.ColumnDefinitions = append(table.ColumnDefinitions, metav1.TableColumnDefinition{Name: name, Type: "string"})
	}
	for _, agent := range v.Agents {
		cells := []any{cmp.Or(agent.Node, agent.Agent)}
		info := build.Info{}
		if agent.Build != nil {
			info = *agent.Build
		}
		commit := info.Commit[:min(len(info.Commit), 12)]
		if commit != "" && info.Modified {
			commit += "+"
		}
		for _, cell := range []string{info.Version, commit, info.Date, info.GoVersion, info.Platform} {
			cells = append(cells, cmp.Or(cell, unknown))
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells})
	}
	return table
}
