package commands_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podfence/podfence/kubectl-podfence/commands"
)

var update = flag.Bool("update", false, "write the examples of documents anew")

// example is a comment in a document that an example follows: a command, and all that it prints.
var example = regexp.MustCompile("(?m)^<!-- example -->\n\n```\n\\$ kubectl podfence (.*)\n(?s:.*?)```\n")

// TestDocuments: the examples of documents are what the commands in them print, where the files are. With
// -update they are written anew.
func TestDocuments(t *testing.T) {
	for _, document := range []struct {
		file, folder string
		commands     []string // that have an example
	}{
		{"LINT.md", mistakes, []string{"lint"}},
		{"REACH.md", shop, []string{"reach", "diff"}},
	} {
		t.Run(document.file, func(t *testing.T) {
			file, err := filepath.Abs("../../docs/" + document.file)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(document.folder)
			shown := map[string]bool{}
			want := example.ReplaceAllStringFunc(string(data), func(block string) string {
				call := example.FindStringSubmatch(block)[1]
				shown[strings.Fields(call)[0]] = true
				return "<!-- example -->\n\n```\n$ kubectl podfence " + call + "\n" + printed(t, call) + "```\n"
			})
			for _, command := range document.commands {
				if !shown[command] {
					t.Errorf("%s has no example of %s", file, command)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if want != string(data) {
				t.Errorf("%s has other examples than the commands print (-update writes them):\n%s", file, want)
			}
		})
	}
}

// printed is all that a call prints.
func printed(t *testing.T, call string) string {
	t.Helper()
	var out bytes.Buffer
	code := commands.Main(t.Context(), "test", genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out}, strings.Fields(call))
	if code == 2 {
		t.Errorf("%s: %s", call, &out)
	}
	return out.String()
}
