// Package agents finds podfence's agents in a cluster, and asks them.
//
//	pods.go  which pods are agents, and what their flags say
package agents
