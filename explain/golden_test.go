package explain_test

import (
	"flag"
	"os"
	"testing"

	"github.com/podfence/podfence/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noOptions = policy.JudgeOptions{}

// golden holds a text against a file. A file that is missing is an error, unless the files are written anew.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s", file, got, want)
	}
}
