package v1alpha1

// StandInAnnotation marks a pod that stands for pods which are not there, because a file has a workload and
// no pods of it, or whose addresses are placeholders. Its value is "true". No pod of an API server has it.
const StandInAnnotation = "podfence.io/stand-in"
