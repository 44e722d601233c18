// podfence enforces Kubernetes NetworkPolicy on a node with nftables.
//
// The command line is in the folder cli. See docs/ARCHITECTURE.md for the way from an object
// in the API to a packet dropped.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/podfence/podfence/cli"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, version)
	stop()
	os.Exit(code)
}
