package controllers

// sayHostPorts logs what operators should know of hostPort on this node, at the start and
// whenever it is something else.
func (n *Network) sayHostPorts() {
	if n.hostPorts == nil {
		return
	}
	note := n.hostPorts()
	if note == n.saidOfHostPorts {
		return
	}
	if n.saidOfHostPorts = note; note == "" {
		note = "the portmap plugin serves them for pods that start from now on"
	}
	n.log.Info("hostPorts of this node", "note", note)
}
