package commands

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/ui"
)

func uiCommand(f *frame) *cobra.Command {
	c := &showing{frame: f}
	cmd := &cobra.Command{
		Use:   "ui",
		Short: "Show in a browser who may talk to whom, what does, and why not",
		Long: `Serves a page on this machine, for a browser, until it is interrupted: a map of
namespaces and workloads with what policies allow between them, the matrix, flows
as they come, and what a change of policies would open and close.

It reads as you, with your kubeconfig, and changes nothing; nothing runs in the
cluster for it. With --filename it needs no cluster, and shows flows of the agents
that --agent names, if any.

It listens on the loopback interface only. The address that it prints has a token:
without it, other users of this machine and other pages in your browser get
nothing. With it, they would see all that you may read.

Exit codes: 0, it was interrupted; 2, the call was wrong, or the objects could not
be read.`,
		Example: `  kubectl podfence ui
  kubectl podfence ui -f deploy/ -R
  kubectl podfence ui --port 8080     # and from elsewhere: ssh -L 8080:127.0.0.1:8080 HOST`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.source = f.sourceFlags(cmd)
	c.judge.flags(cmd)
	c.resolving.flags(cmd)
	c.asking.flags(cmd)
	cmd.Flags().IntVar(&c.port, "port", 0, "the port to listen on; 0: one that is free")
	cmd.Flags().DurationVar(&c.refresh, "refresh", 30*time.Second, "after how long the page has the objects read again, at least; 0: only if it is asked to")
	return cmd
}

// showing is one call of ui.
type showing struct {
	*frame
	source    *source
	judge     judging
	resolving resolving
	asking    asking
	port      int
	refresh   time.Duration
}

func (c *showing) run(ctx context.Context) error {
	if err := errors.Join(c.check(), c.judge.check(), c.resolving.check(), c.asking.check()); err != nil {
		return err
	}
	backend, err := c.backend()
	if err != nil {
		return err
	}
	server, err := ui.Listen(ctx, backend, ui.Options{Port: c.port, Refresh: c.refresh, Version: c.ownVersion()})
	if err != nil {
		return err
	}
	// What cannot be read is said here, and not first in the browser.
	if err := server.Read(ctx); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s\n", server.URL())
	fmt.Fprintf(c.ErrOut, "kubectl podfence: open this address in a browser on this machine. It lets whoever knows it see what you may read. Ctrl-C ends it.\n")
	return server.Serve(ctx)
}

func (c *showing) check() error {
	switch {
	case c.port < 0 || c.port > 65535:
		return fmt.Errorf("--port is %d: it must be from 0 to 65535", c.port)
	case c.refresh < 0 || c.refresh > 0 && c.refresh < time.Second:
		return fmt.Errorf("--refresh is %s: it must be 0 or at least 1s", c.refresh)
	case c.source.has("-"):
		return errors.New("--filename cannot be standard input, as it is read again: give a file or folder")
	}
	return nil
}

// backend is where the page has everything from.
func (c *showing) backend() (ui.Backend, error) {
	b := ui.Backend{Read: c.read, Change: c.change}
	if c.source.isFiles() {
		b.Source = c.source.text()
	} else {
		name, err := c.clusterName()
		if err != nil {
			return b, err
		}
		b.Source = name
	}
	if c.source.isFiles() && !c.asking.byAddress() {
		b.NoFlows = "Flows are told by agents. The objects are from files: name agents by --agent HOST:PORT."
	} else {
		b.Observe = c.observe
	}
	return b, nil
}

func (c *showing) read(ctx context.Context) (*ui.Objects, error) {
	var namespaces []string
	if name, _, err := c.namespace(); err == nil {
		namespaces = append(namespaces, name) // for users who may read no more
	}
	objects, err := c.source.read(ctx, namespaces...)
	if err != nil {
		return nil, err
	}
	options := c.judge.options(objects)
	c.resolving.ask(ctx, c.frame, &c.asking, objects, nil)
	x := c.resolving.explainer(objects.Cluster, options)
	return &ui.Objects{
		Cluster: objects.Cluster, Options: options, Notes: objects.notes, Explainer: x,
		Complete: objects.complete,
		Compare: func(after *explain.Cluster) *explain.Diff {
			after.Resolutions, after.Lapsed, after.NamesKnown = objects.Resolutions, objects.Lapsed, objects.NamesKnown
			return explain.Compare(x, c.resolving.explainer(after, options))
		},
	}, nil
}

// change reads YAML as a file of --filename is read.
func (c *showing) change(yaml []byte, into *explain.Cluster) (*explain.Cluster, error) {
	f := *c.frame
	f.In, f.ErrOut = bytes.NewReader(yaml), io.Discard
	objects, err := newSource(&f, []string{"-"}, false).readFiles()
	if err != nil {
		return nil, err
	}
	return written(objects, into), nil
}

// observe has agents asked until ctx is done.
func (c *showing) observe(ctx context.Context, q flows.Query, each func(*flows.Flow) error, say func(string)) error {
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	for _, note := range notes {
		say(note.Message)
	}
	f := *c.frame
	f.ErrOut = lineSink(say)
	err = newObservation(&f, &c.asking, q, flowFunc(each)).run(ctx, asked)
	if errors.Is(err, errNo) { // what was missing was said
		return nil
	}
	return err
}

// flowFunc is a function that gets flows.
type flowFunc func(*flows.Flow) error

func (w flowFunc) write(f *flows.Flow) error { return w(f) }

// lineSink is a function that gets lines.
type lineSink func(string)

func (s lineSink) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		s(strings.TrimSpace(line))
	}
	return len(b), nil
}
