// Package v1alpha1 has podfence's own API objects.
//
//	podaddresses_types.go  PodAddresses: what a node's agent says of its pods' addresses
//	agent.go               AgentSelector: by which labels the agents are found
//	standin.go             StandInAnnotation: a pod that stands for others
//	groupversion.go        group and version, and the scheme that knows them
//
// zz_generated.deepcopy.go is written by `make generate`, as are the definitions in config/crd.
//
// +kubebuilder:object:generate=true
// +groupName=podfence.io
package v1alpha1
