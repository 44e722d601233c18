// Package install puts on a node what its container runtime looks for: the
// network configuration in /etc/cni/net.d and the plugin in /opt/cni/bin.
//
//	Conflist                  the configuration, as a value
//	HostPorts                 how hostPort is served: what portmap plugin there is
//	Chain                     the same for another network's configuration
//	WriteConflist, Binary     put it there, or leave what is equal
//	Configurations, Shadowed  which others there are, and whether one comes first
//	InstallLoopback           be the loopback plugin, too, where there is none
//	RemoveConfigurations, RemovePlugins
//	                          take it away
//
// A runtime watches both folders, and may read or execute what is there at any
// time, so a file appears whole or not at all: it is written under another name
// in the same folder, synced, and renamed. The name of an unfinished one begins
// with a dot and ends in neither .conflist nor .conf nor .json, which runtimes
// read; one that a killed process has left is removed by the next call for
// the same file. A plugin that is running keeps the file it was started from.
//
// The configuration is what makes a node ready for pods (kubelet reports
// NetworkReady by it). So it is written last, when the agent can answer.
package install
