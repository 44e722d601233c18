package agents

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Selector selects the agents' pods by their labels, in whatever namespace.
const Selector = "app.kubernetes.io/name=podfence,app.kubernetes.io/component=agent"

// isAgent reports whether a pod is an agent's: what Selector says.
func isAgent(pod *corev1.Pod) bool {
	return pod.Labels["app.kubernetes.io/name"] == "podfence" && pod.Labels["app.kubernetes.io/component"] == "agent"
}

// AllowToNode reports whether the agents among pods let pods reach their own node whatever policies say
// (--pod-to-node allow): if all of them do, as what some deny may be denied.
func AllowToNode(pods []*corev1.Pod) bool {
	found := false
	for _, pod := range pods {
		if !isAgent(pod) {
			continue
		}
		if found = true; !slices.ContainsFunc(pod.Spec.Containers, allowsToNode) {
			return false
		}
	}
	return found
}

// allowsToNode reports whether a container is an agent with --pod-to-node allow. A flag wins over the
// environment, and of a flag that is given twice the last.
func allowsToNode(c corev1.Container) bool {
	const flag = "--pod-to-node"
	value := ""
	for _, env := range c.Env {
		if env.Name == "PODFENCE_POD_TO_NODE" {
			value = env.Value
		}
	}
	words := slices.Concat(c.Command, c.Args)
	for i, word := range words {
		if after, is := strings.CutPrefix(word, flag+"="); is {
			value = after
		} else if word == flag && i+1 < len(words) {
			value = words[i+1]
		}
	}
	return value == "allow"
}
