package network

// reportHostPorts logs what operators should know of hostPort on this node, at the start and
// whenever that changes.
func (n *Network) reportHostPorts() {
	if n.HostPorts == nil {
		return
	}
	note := n.HostPorts()
	if note == n.hostPortsNote {
		return
	}
	if n.hostPortsNote = note; note == "" {
		note = "the portmap plugin serves them for pods that start from now on"
	}
	n.Log.Info("hostPorts of this node", "note", note)
}
