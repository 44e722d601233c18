package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/lint"
)

func lintCommand(f *frame) *cobra.Command {
	c := &linting{frame: f}
	cmd := &cobra.Command{
		Use:   "lint",
		Short: "Find what policies say and cannot mean",
		Long: `Looks at policies for what the API server accepts and what cannot be meant:
selectors that are a letter away from the pods that are there, ports that no
container has, rules that policyTypes leave out, and more. docs/LINT.md has all
rules, and what each of them does not find.

It looks at the NetworkPolicies of one namespace, that of --namespace or of the
kubeconfig's context, as kubectl get does. With --all-namespaces it looks at all,
and at ClusterNetworkPolicies, which are in no namespace. With --filename it looks
at all policies of the files, or with --namespace too, at those of that namespace.
The other policies still count for what is found of these.

A Warning cannot be meant. An Info has no effect as the cluster is now; it may be
meant for what comes later. --severity warning leaves it out.

Exit codes: 0, nothing is found; 1, something is; 2, the call was wrong, or the
cluster or the files could not be read.`,
		Example: `  kubectl podfence lint
  kubectl podfence lint --all-namespaces
  kubectl podfence lint -n shop --severity warning -o wide
  kubectl podfence lint -f policies/ -R
  helm template shop ./shop | kubectl podfence lint -f - -o json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.source = f.sourceFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&c.all, "all-namespaces", "A", false, "look at the policies of all namespaces, whatever --namespace says, and at ClusterNetworkPolicies")
	flags.StringVar(&c.severity, "severity", "info", "the least severity that is found: info, which is all, or warning")
	c.output.noHeadersFlag(cmd, "with --output wide: leave out the line that names the columns")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("severity", cobra.FixedCompletions([]string{"info", "warning"}, cobra.ShellCompDirectiveNoFileComp)))
	c.output.outputFlag(cmd, "json", "yaml", "wide", "name")
	return cmd
}

// linting is one call of lint.
type linting struct {
	*frame
	source   *source
	output   output
	all      bool
	severity string
}

// scope says whose policies are looked at.
type scope struct {
	// namespace is the only one that is looked at; empty: all are, and ClusterNetworkPolicies too.
	namespace string
	// text is the scope as the end of a sentence.
	text string
}

func (s scope) has(namespace string) bool { return s.namespace == "" || s.namespace == namespace }

func (c *linting) run(ctx context.Context) error {
	scope, err := c.scope()
	if err = errors.Join(err, c.check()); err != nil {
		return err
	}
	var namespaces []string // those that a user who may not read all must be able to read
	if scope.namespace != "" {
		namespaces = append(namespaces, scope.namespace)
	}
	objects, err := c.source.read(ctx, namespaces...)
	if err != nil {
		return err
	}
	if !objects.has(scope.namespace) {
		return fmt.Errorf("there is no namespace %s, and nothing that would be in it: is --namespace right?", scope.namespace)
	}
	found := c.find(objects, scope)
	if err := c.write(found, objects.notes); err != nil {
		return err
	}
	if len(found) > 0 {
		return errNo
	}
	if c.isForPeople() {
		fmt.Fprintf(c.ErrOut, "kubectl podfence: nothing found in %s of %s\n", policiesText(objects.Cluster, scope), scope.text)
	}
	return nil
}

// scope is all namespaces if that is asked for, or files are and no namespace; else it is one.
func (c *linting) scope() (scope, error) {
	namespace, set, err := c.namespace() // its error is of no importance where no namespace is needed
	switch {
	case c.source.isFiles() && (c.all || !set):
		return scope{text: "the files"}, nil
	case c.all:
		return scope{text: "all namespaces"}, nil
	}
	return scope{namespace, "namespace " + namespace}, err
}

// check refuses values of flags that make no sense. It is called before anything is asked.
func (c *linting) check() error {
	if err := c.output.check(); err != nil {
		return err
	}
	if c.severity != "info" && c.severity != "warning" {
		return fmt.Errorf("--severity is %q: it must be info or warning", c.severity)
	}
	if c.output.rowsOnly() && !c.output.is("wide") {
		return errors.New("--no-headers is about a table: ask for one by --output wide")
	}
	return nil
}

// find is what is found of policies that are in scope, and severe enough, with where it is written.
func (c *linting) find(o *objects, in scope) (found []lint.Finding) {
	for _, f := range lint.Lint(o.Cluster) {
		namespace := f.Object.Namespace
		if f.Object.Kind == "Namespace" {
			namespace = f.Object.Name
		}
		if !in.has(namespace) || c.severity == "warning" && f.Severity != lint.Warning {
			continue
		}
		if o.place != nil {
			f.Source = o.place(f.Object.Kind, f.Object.Namespace, f.Object.Name, f.Path)
		}
		found = append(found, f)
	}
	return found
}

// isForPeople reports whether findings are written as lines or as a table.
func (c *linting) isForPeople() bool { return c.output.is("") || c.output.is("wide") }

// write writes findings as --output has it. Values for programs have the notes; else they are on ErrOut.
func (c *linting) write(found []lint.Finding, notes []explain.Note) error {
	written, err := c.output.write(c.Out, lint.NewList(found, notes))
	if written {
		return err
	}
	for _, note := range notes {
		fmt.Fprintln(c.ErrOut, "kubectl podfence:", note.Message)
	}
	switch {
	case c.output.is("name"):
		return writeNames(c.Out, found)
	case c.output.is("wide"):
		return writeTable(c.Out, found, !c.output.rowsOnly())
	}
	return lint.WriteText(c.Out, found, c.style())
}

// writeNames writes the policies of which something is found, each once, as kubectl get -o name does:
// without namespaces.
func writeNames(w io.Writer, found []lint.Finding) error {
	for i, f := range found {
		if i > 0 && f.Object == found[i-1].Object {
			continue
		}
		if err := writeName(w, f.Object.Kind, f.Object.Name); err != nil {
			return err
		}
	}
	return nil
}

// writeTable writes findings as a table, as kubectl get -o wide does. The place in a file is a column if
// any is known; what is unknown is "<none>".
func writeTable(w io.Writer, found []lint.Finding, headers bool) error {
	if len(found) == 0 {
		return nil
	}
	const none = "<none>"
	table := printers.GetNewTabWriter(w)
	columns := []string{"SEVERITY", "NAMESPACE", "KIND", "NAME", "FIELD", "RULE", "MESSAGE"}
	var err error
	line := func(source string, cells []string) {
		if found[0].Source != nil {
			cells = append([]string{source}, cells...)
		}
		if _, failed := fmt.Fprintln(table, strings.Join(cells, "\t")); failed != nil && err == nil {
			err = failed
		}
	}
	if headers {
		line("SOURCE", columns)
	}
	for _, f := range found {
		source, namespace := none, f.Object.Namespace
		if f.Source != nil {
			source = fmt.Sprintf("%s:%d", f.Source.File, f.Source.Line)
		}
		if namespace == "" {
			namespace = none
		}
		name := f.Object.Name
		if f.Staged {
			name += " (staged)"
		}
		line(source, []string{string(f.Severity), namespace, f.Object.Kind, name, f.Path, string(f.Rule), f.Message})
	}
	if err = errors.Join(err, table.Flush()); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

// policiesText says how many policies are looked at.
func policiesText(c *explain.Cluster, in scope) string {
	n := 0
	for _, np := range c.Policies {
		if in.has(np.Namespace) {
			n++
		}
	}
	text := fmt.Sprintf("%d NetworkPolicies", n)
	if n == 1 {
		text = "1 NetworkPolicy"
	}
	switch more := len(c.ClusterPolicies); {
	case in.namespace != "" || more == 0:
	case more == 1:
		text += " and 1 ClusterNetworkPolicy"
	default:
		text += fmt.Sprintf(" and %d ClusterNetworkPolicies", more)
	}
	return text
}
