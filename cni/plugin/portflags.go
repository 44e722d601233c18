package plugin

// PortFlags are the attributes of a pod's bridge port (IFLA_BRPORT_*) and the values that
// ADD gives them: the agent sets them again where others have changed them.
func PortFlags() map[int]byte {
	flags := map[int]byte{}
	for _, flag := range portFlags {
		flags[flag.attr] = flag.want
	}
	return flags
}
