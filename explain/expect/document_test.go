package expect_test

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the example of the document anew")

// TestDocument: docs/TESTING-POLICIES.md shows the file of tests that TestAsExpected runs.
func TestDocument(t *testing.T) {
	const file, marker = "../../docs/TESTING-POLICIES.md", "<!-- file: explain/expect/testdata/shop.yaml -->\n"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(data), marker)
	if !found {
		t.Fatalf("%s shows no example", file)
	}
	if strings.HasPrefix(after, "\n```yaml\n") {
		_, after, _ = strings.Cut(after, "```\n")
	}
	want := before + marker + "\n```yaml\n" + shop(t) + "```\n" + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if string(data) != want && !*update {
		t.Errorf("%s shows another example than the file has; -update writes it", file)
	}
}
