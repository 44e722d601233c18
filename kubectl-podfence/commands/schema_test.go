package commands_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/build"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/expect"
	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// schemas are the values that commands print as JSON, and that agents answer, by their kind and version.
var schemas = map[string]any{
	"explain.podfence.io_v1_Explanation":       explain.Explanation{},
	"explain.podfence.io_v1_Reach":             explain.Reach{},
	"explain.podfence.io_v1_ReachMatrix":       explain.ReachMatrix{},
	"explain.podfence.io_v1_Diff":              explain.Diff{},
	"explain.podfence.io_v1_LiveDiff":          explain.LiveDiff{},
	"explain.podfence.io_v1_FindingList":       lint.List{},
	"explain.podfence.io_v1_PolicyTestResults": expect.Results{},
	"status.podfence.io_v1_Status":             commands.Status{},
	"agent.podfence.io_v1_Status":              answers.Status{},
	"agent.podfence.io_v1_Trace":               answers.Trace{},
	"agent.podfence.io_v1_TraceQuestion":       answers.TraceQuestion{},
	"agent.podfence.io_v1_LiveQuestion":        answers.LiveQuestion{},
	"agent.podfence.io_v1_LiveCuts":            answers.LiveCuts{},
	"agent.podfence.io_v1_Names":               answers.Names{},
	"agent.podfence.io_v1_Failure":             answers.Failure{},
	"names.podfence.io_v1_NameList":            commands.NameList{},
	"version.podfence.io_v1_Version":           build.Version{},
	"version.podfence.io_v1_Versions":          commands.Versions{},
	"flow":                                     flows.Flow{}, // a line has no version of its own
}

// TestSchemas: docs/schema has the JSON Schema of each value, as its type and the comments there have it. With
// -update it is written anew. A field that goes, or gets another type, takes a new version.
func TestSchemas(t *testing.T) {
	reflector := &jsonschema.Reflector{AllowAdditionalProperties: true, Mapper: textual, Namer: named}
	for _, room := range []string{"explain", "explain/expect", "explain/lint", "kubectl-podfence/commands", "api/answers", "api/build", "api/flows"} {
		comments(t, reflector, room)
	}
	const folder = "../../docs/schema"
	for name, value := range schemas {
		schema := reflector.Reflect(value)
		text, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, '\n')
		file := filepath.Join(folder, name+".json")
		if *update {
			if err := os.WriteFile(file, text, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if has, err := os.ReadFile(file); err != nil || !bytes.Equal(has, text) {
			t.Errorf("%s is not the schema of %T (-update writes it): %v", file, value, err)
		}
	}
	files, err := os.ReadDir(folder)
	if err != nil || len(files) != len(schemas) {
		t.Errorf("%s has %d files for %d schemas: %v", folder, len(files), len(schemas), err)
	}
}

// comments reads what the types of a room say of their fields.
func comments(t *testing.T, r *jsonschema.Reflector, room string) {
	t.Helper()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	defer t.Chdir(folder)
	if err := r.AddGoComments("github.com/podfence/podfence", "./"+room); err != nil {
		t.Fatal(err)
	}
}

// named tells types of the agents' answers apart from those of the same name that commands print.
func named(of reflect.Type) string {
	if of.PkgPath() == reflect.TypeFor[answers.Status]().PkgPath() {
		return "Agent" + of.Name()
	}
	return of.Name()
}

// textual are types that JSON has as strings.
func textual(of reflect.Type) *jsonschema.Schema {
	switch of {
	case reflect.TypeFor[netip.Addr]():
		return &jsonschema.Schema{Type: "string", Description: "an IPv4 or IPv6 address"}
	case reflect.TypeFor[netip.AddrPort]():
		return &jsonschema.Schema{Type: "string", Description: "an address and a port, such as 10.0.0.1:80 or [fd00::1]:80"}
	case reflect.TypeFor[netip.Prefix]():
		return &jsonschema.Schema{Type: "string", Description: "a network, such as 10.0.0.0/8"}
	}
	return nil
}

// TestKinds: what is printed says which schema it is of.
func TestKinds(t *testing.T) {
	files := []string{"-f", mistakes + "cluster.yaml", "-f", mistakes + "service-port.yaml"}
	for kind, args := range map[string][]string{
		"Explanation": {"explain", "shop/client-0", "shop/web-0:80"},
		"Reach":       {"reach", "shop/web-0"},
		"ReachMatrix": {"reach", "--matrix", "-A"},
		"Diff":        {"diff", "--against", mistakes + "cluster.yaml"},
		"FindingList": {"lint"},
	} {
		_, out, errOut := call(t, append(append(args, "-o", "json"), files...)...)
		var meta struct{ APIVersion, Kind string }
		if err := json.Unmarshal([]byte(out), &meta); err != nil || meta.Kind != kind {
			t.Errorf("%v: %+v, %v: %s%s", args, meta, err, out, errOut)
		}
		if _, known := schemas[strings.ReplaceAll(meta.APIVersion, "/", "_")+"_"+meta.Kind]; !known {
			t.Errorf("%v: there is no schema of %+v", args, meta)
		}
	}
}
