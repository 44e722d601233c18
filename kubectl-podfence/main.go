// Command kubectl-podfence is a plugin of kubectl: `kubectl podfence` answers why pods reach each other or
// not, and how the agents of a cluster are. It needs no privilege, and runs wherever kubectl does.
//
// The commands are in the folder commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := commands.Main(ctx, version, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}
