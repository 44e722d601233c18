package explain_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// example is a comment in a document that an example follows: the name of a mistake's file, FROM and TO.
var example = regexp.MustCompile("(?m)^<!-- example: ([a-z-]+) (\\S+) (\\S+) -->\n(?:\n```\n(?s:.*?)```\n)?")

// TestDocument: the examples of docs/EXPLAIN.md are what the files that they name give. With -update they
// are written anew.
func TestDocument(t *testing.T) {
	const file = "../docs/EXPLAIN.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	document := example.ReplaceAllStringFunc(string(data), func(block string) string {
		m := example.FindStringSubmatch(block)
		shown[m[1]] = true
		text := textOf(t, ask(t, load(t, "cluster.yaml", m[1]+".yaml"), m[2], m[3]))
		return fmt.Sprintf("<!-- example: %s %s %s -->\n\n```\n$ kubectl podfence explain -f cluster.yaml -f %s.yaml %s %s\n%s```\n", m[1], m[2], m[3], m[1], m[2], m[3], text)
	})
	for _, m := range mistakes {
		if !shown[m.file] {
			t.Errorf("%s does not show the mistake %s", file, m.file)
		}
	}
	if strings.Count(document, "```\n$ kubectl podfence explain") < len(mistakes) {
		t.Errorf("%s has too few examples", file)
	}
	golden(t, file, document)
}
