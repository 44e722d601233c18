package cli

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/build"
)

// TestVersion: the version in each format, and what it was built of.
func TestVersion(t *testing.T) {
	if out, _, err := run(t, "--version"); err != nil || out != "podfence version "+version+"\n" {
		t.Errorf("--version: got %q, %v", out, err)
	}
	out, _, err := run(t, "version")
	if err != nil || !strings.HasPrefix(out, "podfence version "+version+"\n  ") || !strings.Contains(out, runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH) {
		t.Errorf("%v: %s", err, out)
	}
	for format, read := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(text []byte, into any) error { return yaml.UnmarshalStrict(text, into) },
	} {
		out, _, err := run(t, "version", "-o", format)
		if err != nil {
			t.Fatal(err)
		}
		var got build.Version
		if err := read([]byte(out), &got); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got.APIVersion != build.APIVersion || got.Kind != "Version" || got.Version != version || got.GoVersion != runtime.Version() {
			t.Errorf("%s: %+v", format, got)
		}
	}
	if _, _, err := run(t, "version", "-o", "xml"); err == nil || !strings.Contains(err.Error(), "json, yaml") {
		t.Errorf("-o xml: %v", err)
	}
}
