package policy

// Held counts what a model holds.
func Held(m *Model) int {
	return len(m.namespaces) + len(m.claims) + len(m.attached) + len(m.orphans) + len(m.changedOrphans) + len(m.attachments) + len(m.reportedIPs) + len(m.peers) + len(m.byLabel) + len(m.named) +
		len(m.changedPeers) + len(m.changedNamed) + len(m.dirtySubjects) + len(m.dirtyPolicies) + len(m.nodes) + len(m.closed)
}
