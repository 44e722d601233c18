package v1alpha1

// AgentSelector selects the pods of podfence's agents by the labels that config/ and the chart give them. Any
// pod may have these labels. That it is on its node's network as well takes rights over the node.
const AgentSelector = agentName + "=podfence," + agentComponent + "=agent"

const (
	agentName      = "app.kubernetes.io/name"
	agentComponent = "app.kubernetes.io/component"
)

// HasAgentLabels reports whether labels are those that AgentSelector selects.
func HasAgentLabels(labels map[string]string) bool {
	return labels[agentName] == "podfence" && labels[agentComponent] == "agent"
}
