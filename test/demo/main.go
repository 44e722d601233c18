// podfence-demo shows podfence at work on one machine: a small shop on two nodes
// made of network namespaces, its pods connected by the CNI plugin and fenced by
// the agents, with real traffic between all its parts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `Show podfence at work on this machine: two nodes and a few pods as network
namespaces, the pods connected by podfence-cni, a small shop's policies enforced
by the agents, and real packets between all of them, on one node and across.
Needs root, and podfence-cni beside this program. Removes all of it at the end,
and does not touch the machine's own ruleset. Exits with 1 if any packet got
another verdict than the policies give.

Usage:
  podfence-demo [--keep]

Flags:
`

func main() {
	keep := flag.Bool("keep", false, "leave everything up, and say how to look around; the next demo removes it")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "podfence-demo: takes no arguments, but was given %q\n", flag.Args())
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *keep)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "podfence-demo:", err)
		os.Exit(1)
	}
}
