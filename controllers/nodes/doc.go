// Package nodes makes changes of Node objects. The reconciler and the folder of manifests both do
// so by it.
//
//	nodes.go  Known: the Nodes as they were last fed, with the addresses that they had
package nodes
