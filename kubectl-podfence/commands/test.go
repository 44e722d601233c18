package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/expect"
)

func testCommand(f *frame) *cobra.Command {
	c := &testing{frame: f}
	cmd := &cobra.Command{
		Use:   "test TESTS...",
		Short: "Hold policies against what is expected of them",
		Long: `Runs expectations that are written in YAML, against a cluster or, with
--filename, against files before they are applied:

  apiVersion: explain.podfence.io/v1
  kind: PolicyTest
  tests:
  - name: clients reach the web
    from: shop/client-0
    to: svc/shop/web:80
    expect: allow

TESTS are files of those, or - for standard input. docs/TESTING-POLICIES.md has
all that can be written.

Exit codes: 0, all is as expected; 1, something is not; 2, the call was wrong, or
something could not be read.`,
		Example: `  kubectl podfence test policies_test.yaml
  kubectl podfence test -f chart/ policies_test.yaml -o junit > results.xml
  helm template shop ./shop | kubectl podfence test -f - policies_test.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.source = f.sourceFlags(cmd)
	c.judge.flags(cmd)
	c.output.outputFlag(cmd, "junit", "json", "yaml")
	return cmd
}

// testing is one call of test.
type testing struct {
	*frame
	source *source
	judge  judging
	output output
}

func (c *testing) run(ctx context.Context, paths []string) error {
	namespace, _, err := c.namespace()
	if err = errors.Join(err, c.output.check(), c.judge.check()); err != nil {
		return err
	}
	tests, err := c.tests(paths)
	if err != nil {
		return err
	}
	objects, err := c.source.read(ctx)
	if err != nil {
		return err
	}
	for _, note := range objects.notes {
		fmt.Fprintln(c.ErrOut, "kubectl podfence:", note.Message)
	}
	results := expect.Run(explain.New(objects.Cluster, c.judge.options(objects)), tests, namespace)
	for _, r := range results {
		if r.Explanation != nil {
			objects.complete(r.Explanation)
		}
	}
	if err := c.write(results); err != nil {
		return err
	}
	if expect.Failed(results) > 0 {
		return errNo
	}
	return nil
}

// tests reads files of tests.
func (c *testing) tests(paths []string) (all []expect.Tests, err error) {
	for _, path := range paths {
		var data []byte
		name := path
		if path == "-" {
			name = "standard input"
			data, err = io.ReadAll(c.In)
		} else {
			data, err = os.ReadFile(path)
		}
		if err != nil {
			return nil, fmt.Errorf("reading tests: %w", err)
		}
		tests, err := expect.Parse(name, data)
		if err != nil {
			return nil, err
		}
		all = append(all, tests...)
	}
	return all, nil
}

func (c *testing) write(results []expect.Result) error {
	if c.output.is("junit") {
		return expect.WriteJUnit(c.Out, results)
	}
	written, err := c.output.write(c.Out, expect.NewResults(results))
	if !written {
		err = expect.WriteText(c.Out, results, c.style())
	}
	return err
}
