// Package connectivity has no code of its own. Its tests are the whole of a
// node's part at work: nodes, agents and the CNI plugin, on a lab's network
// namespaces, with real packets between them.
package connectivity
