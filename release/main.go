package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const usage = `usage:
  release image -version v1.2.3 -created SECONDS DOCKERFILE BINARIES LAYOUT
  release push LAYOUT IMAGE
  release sbom -version v1.2.3 -created SECONDS BINARY...
  release changelog REPOSITORY REVISION
`

// errUsage is the error of arguments that are none of the usage's lines.
var errUsage = errors.New("these arguments do not fit")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "release: %v\n%s", err, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// run does what a command line says, and writes to out what has come of it.
func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	version := flags.String("version", "", "the release, such as v1.2.3")
	seconds := flags.Int64("created", 0, "when it was made, in seconds since 1970")
	if err := flags.Parse(args[1:]); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	created := time.Unix(*seconds, 0).UTC()
	rest := flags.Args()
	versioned := *version != ""
	switch {
	case args[0] == "image" && versioned && len(rest) == 3:
		return makeImage(fromCaller(rest[0]), fromCaller(rest[1]), fromCaller(rest[2]), *version, created, out)
	case args[0] == "push" && len(rest) == 2:
		return push(ctx, fromCaller(rest[0]), rest[1], out)
	case args[0] == "sbom" && versioned && len(rest) > 0:
		for _, binary := range rest {
			if err := writeSBOM(fromCaller(binary), *version, created, out); err != nil {
				return err
			}
		}
		return nil
	case args[0] == "changelog" && len(rest) == 2:
		return changelog(ctx, fromCaller(rest[0]), rest[1], out)
	default:
		return errUsage
	}
}

// makeImage writes the image into an OCI layout, and reads it again.
func makeImage(dockerfile, binaries, folder, version string, created time.Time, out io.Writer) error {
	recipe, err := readDockerfile(dockerfile, prebuiltStage, map[string]string{"VERSION": version})
	if err != nil {
		return err
	}
	if err := writeImage(recipe, binaries, folder, version, created); err != nil {
		return err
	}
	return verifyImage(recipe, folder, out)
}

// fromCaller makes a path absolute by the caller's folder. That of this process is
// another one under go -C, which leaves the shell's PWD as it was.
func fromCaller(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(os.Getenv("PWD"), path)
}
