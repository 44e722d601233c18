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

// TestDocument: the examples of docs/REACH.md are what the commands in them print, where the files are. With
// -update they are written anew.
func TestDocument(t *testing.T) {
	file, err := filepath.Abs("../../docs/REACH.md")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(shop)
	shown := map[string]bool{}
	want := example.ReplaceAllStringFunc(string(data), func(block string) string {
		call := example.FindStringSubmatch(block)[1]
		var out bytes.Buffer
		code := commands.Main(t.Context(), "test", genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out}, strings.Fields(call))
		if code == 2 {
			t.Errorf("%s: %s", call, &out)
		}
		shown[strings.Fields(call)[0]] = true
		return "<!-- example -->\n\n```\n$ kubectl podfence " + call + "\n" + out.String() + "```\n"
	})
	if !shown["reach"] || !shown["diff"] {
		t.Errorf("%s has no examples of %v", file, shown)
	}
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(data) {
		t.Errorf("%s has other examples than the commands print (-update writes them):\n%s", file, want)
	}
}
