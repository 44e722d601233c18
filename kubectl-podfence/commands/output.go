package commands

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
)

// output is what the flags --output and --no-headers say.
type output struct {
	format    string
	formats   []string // those that the command has, besides its text
	noHeaders bool
}

// outputFlag adds --output with the formats that a command has besides its text: json, yaml, wide, name.
func (o *output) outputFlag(cmd *cobra.Command, formats ...string) {
	o.formats = formats
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "how the answer is written: "+strings.Join(formats, "|")+"; without it, as text")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
}

// noHeadersFlag adds --no-headers, for commands that print tables. The usage says what it leaves out.
func (o *output) noHeadersFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, usage)
}

// rowsOnly reports whether --no-headers was given.
func (o *output) rowsOnly() bool { return o.noHeaders }

// check refuses a format that the command does not have. Commands call it before they ask anything.
func (o *output) check() error {
	if o.format != "" && !slices.Contains(o.formats, o.format) {
		return fmt.Errorf("--output is %q: it must be one of %s", o.format, strings.Join(o.formats, ", "))
	}
	return nil
}

// is reports whether a format was asked for; "" is text.
func (o *output) is(format string) bool { return o.format == format }

// write writes a value as JSON or YAML, if one of them was asked for, and reports whether it has.
func (o *output) write(w io.Writer, value any) (written bool, err error) {
	var text []byte
	switch o.format {
	case "json":
		text, err = json.MarshalIndent(value, "", "  ")
		text = append(text, '\n')
	case "yaml":
		text, err = yaml.Marshal(value)
	default:
		return false, nil
	}
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil {
		return true, fmt.Errorf("writing the answer as %s: %w", o.format, err)
	}
	return true, nil
}

// table writes rows in columns, as kubectl does. Columns with a priority above 0 are for --output wide.
func (o *output) table(w io.Writer, table *metav1.Table) error {
	printer := printers.NewTablePrinter(printers.PrintOptions{NoHeaders: o.noHeaders, Wide: o.is("wide")})
	if err := printer.PrintObj(table, w); err != nil {
		return fmt.Errorf("writing a table: %w", err)
	}
	return nil
}

// groups are the API groups of policies, as kubectl writes names.
var groups = map[string]string{"NetworkPolicy": "networking.k8s.io", "ClusterNetworkPolicy": "policy.networking.k8s.io"}

// resourceName is an object's name as kubectl writes it: with its resource and API group, without its namespace.
func resourceName(kind, name string) string {
	return strings.TrimSuffix(strings.ToLower(kind)+"."+groups[kind], ".") + "/" + name
}

// writeName writes the name of a policy, as kubectl get -o name does: without its namespace.
func writeName(w io.Writer, kind, name string) error {
	if _, err := fmt.Fprintln(w, resourceName(kind, name)); err != nil {
		return fmt.Errorf("writing the name of a policy: %w", err)
	}
	return nil
}

// style marks text for a terminal, or not at all.
func (f *frame) style() explain.Style {
	if !f.colour() {
		return explain.Plain
	}
	return explain.Style{Allowed: sgr("32"), Denied: sgr("31"), Quiet: sgr("2")} // green, red, faint
}

// sgr marks text by an ANSI sequence (SGR, select graphic rendition).
func sgr(code string) func(string) string {
	return func(text string) string { return "\x1b[" + code + "m" + text + "\x1b[0m" }
}

// isTerminal reports whether what is written is shown on a terminal.
func isTerminal(w io.Writer) bool { return printers.IsTerminal(w) }
