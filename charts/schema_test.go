package charts

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestSchemaHasAllValues: each key of values.yaml is in the schema, at its place, with a description, and the
// schema has none at the top that values.yaml lacks but Helm's own.
func TestSchemaHasAllValues(t *testing.T) {
	schema := readSchema(t)
	all := values(t)
	seen := 0
	var walk func(path string, value any, node map[string]any)
	walk = func(path string, value any, node map[string]any) {
		object, is := value.(map[string]any)
		if !is {
			return
		}
		node = schema.resolve(t, node)
		properties, _ := node["properties"].(map[string]any)
		if properties == nil {
			if node["additionalProperties"] == nil || node["additionalProperties"] == true {
				t.Errorf("%s takes anything: %v", path, node)
			}
			return // a map of the user's own keys
		}
		if node["additionalProperties"] != false {
			t.Errorf("%s takes more than its properties", path)
		}
		for key, below := range object {
			here := strings.TrimPrefix(path+"."+key, ".")
			property, _ := properties[key].(map[string]any)
			if property == nil {
				t.Errorf("%s is in values.yaml, and not in the schema", here)
				continue
			}
			seen++
			walk(here, below, property)
		}
	}
	walk("", all, schema.root)
	for _, name := range slices.Sorted(maps.Keys(schema.root["properties"].(map[string]any))) {
		if _, there := all[name]; !there && name != "global" {
			t.Errorf("the schema has %s, and values.yaml has not", name)
		}
	}
	if seen < 60 {
		t.Errorf("only %d values seen", seen)
	}
}

// TestSchemaDescribes: each property of the schema has a description, a sentence.
func TestSchemaDescribes(t *testing.T) {
	described := 0
	for path, node := range nodes("", readSchema(t).root) {
		object, _ := node.(map[string]any)
		properties, is := object["properties"].(map[string]any)
		if !is {
			continue
		}
		for name, property := range properties {
			text, _ := property.(map[string]any)["description"].(string)
			if described++; !strings.HasSuffix(text, ".") {
				t.Errorf("%s.properties.%s has the description %q", path, name, text)
			}
		}
	}
	if described < 80 {
		t.Errorf("only %d properties seen", described)
	}
}

// TestSchemaRefusesTypes: a value of another type than the one in values.yaml is refused, by an error that names the
// value, and says what would be taken. All of one depth are wrong at once, as Helm says all that is wrong.
func TestSchemaRefusesTypes(t *testing.T) {
	schema := readSchema(t)
	wrong := map[int][]string{} // by depth, what is set
	named := map[int][]string{} // and what errors must name
	for path, value := range nodes("", values(t)) {
		if path == "" || strings.Contains(path, "[") {
			continue
		}
		name, there := schema.at(t, path)
		if !there {
			continue // a key of a map, which has the user's own
		}
		set := path + `=["wrong"]`
		if _, is := value.([]any); is {
			set = path + `="wrong"`
		}
		depth := strings.Count(path, ".")
		wrong[depth], named[depth] = append(wrong[depth], "--set-json", set), append(named[depth], name)
	}
	if len(wrong) < 3 {
		t.Fatalf("there are values of %d depths", len(wrong))
	}
	for depth, sets := range wrong {
		out, err := helm(t, append([]string{"template", release, "podfence", "-n", namespace}, sets...)...)
		if err == nil {
			t.Fatalf("%v is taken:\n%s", sets, out)
		}
		lines := strings.Split(err.Error(), "\n")
		for _, name := range named[depth] {
			if !slices.ContainsFunc(lines, func(line string) bool {
				return strings.Contains(line, "at '"+name+"': ") && (strings.Contains(line, "want ") || strings.Contains(line, "must be one of "))
			}) {
				t.Errorf("no error says what %s wants: %v", name, err)
			}
		}
	}
}

// TestSchemaRefusesNames: the names of pools that would make no DaemonSet, labels that select the agents, and digests
// that are none.
func TestSchemaRefusesNames(t *testing.T) {
	for set, want := range map[string]string{
		`pools.byName.Big={}`:                                    "at '/pools/byName': additional properties 'Big' not allowed",
		`pools.byName={"a":{"nodeSelector":{}}}`:                 "'nodeSelector' not allowed",
		`pools.label="a b"`:                                      "'/pools/label'",
		`podLabels={"app.kubernetes.io/component":"a"}`:          "podLabels has app.kubernetes.io/component",
		`podAnnotations={"a":1}`:                                 "'/podAnnotations/a': got number, want string",
		`updateStrategy.rollingUpdate.maxUnavailable=0`:          "'/updateStrategy/rollingUpdate/maxUnavailable': minimum: got 0, want 1",
		`updateStrategy.rollingUpdate.maxUnavailable="x"`:        "'/updateStrategy/rollingUpdate/maxUnavailable': 'x' does not match",
		`image.digest="sha256:0"`:                                "'/image/digest'",
		`extraEnv=[{"value":"a"}]`:                               "missing property 'name'",
		`extraEnv=[{"name":"GOGC","value":50}]`:                  "'/extraEnv/0/value': got number, want string",
		`extraEnv=[{"name":"GOGC","vaule":"50"}]`:                "'vaule' not allowed",
		`clusterNetworkPolicies.status.resources={"limit":{}}`:   "'limit' not allowed",
		`pools.byName={"a":{"resources":{"limits":{"cpu":[]}}}}`: "'/pools/byName/a/resources/limits/cpu'",
		`pools.byName={"a":{"extraArgs":["observe-flows=1"]}}`:   "'/pools/byName/a/extraArgs/0'",
	} {
		if out, err := helm(t, "template", release, "podfence", "--set-json", set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, and does not say %q\n%.200s", set, err, want, out)
		}
	}
}

// schema is values.schema.json.
type schema struct{ root map[string]any }

func readSchema(t *testing.T) schema {
	t.Helper()
	text, err := os.ReadFile("podfence/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	s := schema{}
	if err := json.Unmarshal(text, &s.root); err != nil {
		t.Fatal(err)
	}
	return s
}

// resolve follows a $ref.
func (s schema) resolve(t *testing.T, node map[string]any) map[string]any {
	t.Helper()
	ref, is := node["$ref"].(string)
	if !is {
		return node
	}
	definition, _ := s.root["definitions"].(map[string]any)[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
	if definition == nil {
		t.Fatalf("there is no %s", ref)
	}
	return definition
}

// at is the path of a value as errors have it; false for what is a key of the user's own.
func (s schema) at(t *testing.T, path string) (string, bool) {
	t.Helper()
	node := s.root
	for part := range strings.SplitSeq(path, ".") {
		properties, _ := s.resolve(t, node)["properties"].(map[string]any)
		if node, _ = properties[part].(map[string]any); node == nil {
			return "", false
		}
	}
	return "/" + strings.ReplaceAll(path, ".", "/"), true
}
