// Package commands is the command line of kubectl podfence: flags and arguments become questions, and
// answers text, JSON and exit codes.
//
// What all commands share:
//
//	root.go           Main and Command, which the plugin is; exit codes; which cluster is asked
//	source.go         where objects come from: a cluster, or --filename; what is missing
//	sourcefiles.go    objects of --filename
//	judge.go          what verdicts depend on beside the objects: --pod-to-node
//	resolve.go        what domain names are resolved to: --resolve, or what agents say
//	asking.go         which agents are asked, by commands that ask them
//	output.go         --output, colours
//	complete.go       completion in shells: of targets such as svc/shop/web:80
//
// The commands, each a function that takes the frame and returns a cobra.Command, and a line in Command:
//
//	explain.go        why FROM reaches TO, or why not
//	verify.go         what kernels do with such a packet: --verify
//	reach.go          who reaches a pod, a workload or a namespace, and whom it reaches
//	diff.go           what a change of policies, labels or namespaces opens and closes
//	difflive.go       which open connections that would cut, as agents say: --live
//	livetext.go       how that reads as text
//	test.go           policies held against what is expected of them
//	lint.go           what policies say and cannot mean
//	status.go         how podfence is on each node: which agents are asked
//	statusvalue.go    Status, and how it reads as JSON
//	statustext.go     how it reads as text
//	names.go          what domain names are resolved to on each node
//	observe.go        which packets are denied: what agents are asked for
//	observestream.go  their flows, in the order of time, and again when an agent restarts
//	observetext.go    a flow as a line of text, and the command that explains it
//	ui.go             a page for a browser: what package ui shows
//	generate.go       policies for what was seen: whose flows, and where the policies go
//	generateflows.go  flows of files, of podfence's and Hubble's; how many are kept
//	generatefiles.go  policies to a stream or a folder
//	stage.go          stage and enforce: which policies are in force
//	stagesummary.go   what they would have denied, by what agents remember
//	version.go        the versions of the plugin and of the agents
//	versionvalue.go   Versions, whether they go together, and how they read
//
// A command returns errNo for exit code 1, and any other error for exit code 2.
package commands
