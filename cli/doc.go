// Package cli is the command line: flags and their environment become options, and options
// an agent, a printed ruleset, or a node without podfence.
//
//	command.go       Main and Command, which the program is; its exit codes
//	agent.go         podfence agent: what a node's agent is put together from
//	render.go        podfence render: manifests in, a ruleset out
//	statuswriter.go  podfence status-writer: the status of ClusterNetworkPolicies
//	connectivity.go  podfence connectivity: whether a NetworkPolicy is enforced, by real connections
//	uninstall.go     podfence uninstall: what it removes, in which order, and what it refuses
//	version.go       podfence version
//	environment.go   each flag's variable in the environment, and which wins
//	flags.go         the flags that change what is enforced; values that are not taken
//	hubble.go        the flags about what is kept for those who observe, and about Hubble's API
//	dns.go           the flags about domain names
//	cni.go           the flags about connecting pods, and what comes of them
//	modes.go         what is left on the node of another --cni; what each mode does not hold
//	fragments.go     what memory the node has for fragments
//	observer.go      the flags about denied packets: how many are kept, and the drop log
//	log.go           the logger, and the line that says what was started
//	memory.go        the limit of Go's memory, from the cgroup's
//	running.go       how uninstall knows that an agent runs
//	threads.go       how many goroutines run at once at least
//
// It may use every room, as it puts them together, but for test and the libraries of netlink.
// What an agent is put together from is in package agent, and what it does once it has started is
// in controllers.
package cli
