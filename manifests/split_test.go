package manifests

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// whole reads a file as one part, list or not.
func whole(t *testing.T, text string) (string, bool) {
	t.Helper()
	r := newReader()
	docs, err := documents(part{data: []byte(text)})
	for _, doc := range docs {
		if r.document("f", doc) != nil {
			t.Fatal("an item that is read later, in a document that is read whole")
		}
	}
	if err != nil {
		return err.Error(), false
	}
	s, failed := r.objects()
	if failed != nil {
		return failed.Error(), false
	}
	return fmt.Sprintf("%+v", s.Snapshot), true
}

// TestParts: what is read part by part is what is read whole, with the same lines in what
// is wrong with it; odd lists are read whole.
func TestParts(t *testing.T) {
	const pod, other = "- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n", "- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: b\n"
	list := "apiVersion: v1\nkind: List\nitems:\n"
	for name, c := range map[string]struct {
		text  string
		items int // as they were told apart, or -1
	}{
		"kubectl's":           {kubectl, strings.Count(kubectl, "\n- apiVersion")},
		"items first":         {"apiVersion: v1\nitems:\n" + pod + other + "kind: List\nmetadata: {}\n", 2},
		"no items":            {list, -1},
		"null":                {"apiVersion: v1\nitems:\nkind: List\n", -1},
		"indented":            {list + "  " + pod + "  # between\n\n  - apiVersion: v1\n    kind: Pod\n    metadata: {name: b}\n", 2},
		"comments":            {list + "# first\n" + pod + "# second\n\n" + other + "# last\n", 2},
		"CRLF":                {strings.ReplaceAll(list+pod+other, "\n", "\r\n"), 2},
		"without an end":      {strings.TrimSuffix(list+pod, "\n"), 1},
		"a null item":         {list + pod + "-\n" + other, 3},
		"a dash alone":        {list + "-\n  apiVersion: v1\n  kind: Pod\n  metadata: {name: c}\n" + other, 2},
		"a block":             {list + "- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: a\n    annotations:\n      a: |\n        items:\n        - x\n\n        # no comment\n" + pod, 2},
		"anchors":             {list + "- &a {apiVersion: v1, kind: Namespace, metadata: &m {name: a}}\n- {apiVersion: v1, kind: Pod, metadata: *m}\n", -1},
		"a quote over lines":  {list + "- {apiVersion: v1, kind: Namespace, metadata: {name: a, annotations: {x: \"\n- y\"}}}\n", -1},
		"braces over lines":   {list + "- {apiVersion: v1,\nkind: Pod, metadata: {name: a}}\n" + other, -1},
		"items in a quote":    {"apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\nitems:\n- x\n\"}\nitems: []\n", -1},
		"items twice":         {list + pod + "items:\n" + other, 1},
		"wrong in an item":    {list + pod + "- apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n  spec: {hostNetwork: maybe}\n" + pod + "kind: List\nbad: 1\n", 3},
		"syntax in an item":   {list + pod + "- a: b: c\n", -1},
		"unbalanced":          {list + pod + "- {\n", -1},
		"JSON":                {"{\n \"apiVersion\": \"v1\", \"items\": [\n  {\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n   \"metadata\": {\"name\": \"a\"}},\n  null, {\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\":\n \"B\"}}\n ],\n \"kind\":\n \"List\",\n \"more\": 1 }\n", 3},
		"JSON, items null":    {`{"apiVersion":"v1","kind":"List","items":null}`, -1},
		"JSON, empty":         {`{"apiVersion":"v1","kind":"List","items":[]}`, 0},
		"YAML in braces":      {"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]}", -1},
		"documents":           {"%YAML 1.1\n---\n" + list + pod + "---\n# nothing\n---\n" + list + other + "...\n%YAML 1.1\n---\nkind: Nod\napiVersion: v1\n", 1},
		"a marker in a block": {"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations:\n    x: |\n      ---\n      items:\n--- \nkind: x\n", -1},
	} {
		t.Run(name, func(t *testing.T) {
			want, valid := whole(t, c.text)
			s, err := Parse("f", []byte(c.text))
			got := fmt.Sprintf("%+v", s)
			if err != nil {
				got = err.Error()
			}
			if strings.Contains(want, "0x") { // pointers: compare what they lead to
				r := newReader()
				docs, _ := documents(part{data: []byte(c.text)})
				for _, doc := range docs {
					_ = r.document("f", doc)
				}
				whole, _ := r.objects()
				if err != nil || !reflect.DeepEqual(whole.Snapshot, s) {
					t.Errorf("read in parts: %v, %+v", err, s)
				}
			} else if valid != (err == nil) || !strings.Contains(got, want) {
				t.Errorf("read in parts\n%s\nread whole\n%s", got, want)
			}
			items := -1
			for p := range documentParts([]byte(c.text)) {
				if l, ok := splitItems(p); ok && items < 0 {
					r := newReader()
					if r.splitList("f", l) == nil {
						items = len(l.items)
					}
				}
			}
			if items != c.items {
				t.Errorf("%d items were told apart, want %d", items, c.items)
			}
		})
	}
}

// TestJSONStream: one value after the other, as a watch or jq prints them.
func TestJSONStream(t *testing.T) {
	object := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s"}}`
	s, err := Parse("f", fmt.Appendf(nil, object+"\n"+object+object, "a", "b", "c"))
	if err != nil || len(s.Pods) != 3 {
		t.Errorf("%v, %d pods", err, len(s.Pods))
	}
	_, err = Parse("f", fmt.Appendf(nil, object+"\n\n"+object, "a", "B"))
	if err == nil || !strings.HasPrefix(err.Error(), "f:3: Pod default/B: metadata.name:") {
		t.Errorf("%v", err)
	}
}

// TestUnreadFields: what other releases of Kubernetes have, or had, where policy does not
// look is no error; what is misspelt where it does is one.
func TestUnreadFields(t *testing.T) {
	const podHead, policyHead = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\n"
	for text, wrong := range map[string]string{
		policyHead + "spec: {podSelector: {}}\nstatus: {}\n":                                                                         "",
		policyHead + "spec: {podSelector: {}}\nstatus: {conditions: [{type: Accepted, of: 1.24}]}\n":                                 "",
		podHead + "spec: {nodeName: n1, resourceClaims: [{name: gpu, source: {resourceClaimName: x}}]}\n":                            "",
		podHead + "spec: {containers: [{name: c, image: 7, newIn140: {a: b}, ports: [{containerPort: 80}]}], newIn140: [1]}\n":       "",
		podHead + "spec: {}\nstatus: {phase: Running, newIn140: {a: b}, hostIP: 7}\n":                                                "",
		"apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {externalID: x}\nstatus: {addresses: [], newIn140: {}}\n":            "",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, clusterName: x, managedFields: [{old: 1}]}\nspec: {x: y}\nstatus: 7\n": "",

		policyHead + "spec: {podSelector: {}, polcyTypes: [Egress]}\n":          "spec.polcyTypes: unknown field",
		policyHead + "spec: {podSelector: {matchLabel: {}}}\n":                  "spec.podSelector.matchLabel: unknown field",
		policyHead + "spec: {podSelector: {}}\nStatus: {}\n":                    "Status: unknown field",
		podHead + "spec: {nodename: n1}\n":                                      "spec.nodename: unknown field",
		podHead + "spec: {nodeNam: n1}\n":                                       "spec.nodeNam: unknown field",
		podHead + "spec: {hostnetwork: true}\n":                                 "spec.hostnetwork: unknown field",
		podHead + "spec: {container: []}\n":                                     "spec.container: unknown field",
		podHead + "spec: {containers: [{port: []}]}\n":                          "spec.containers[0].port: unknown field",
		podHead + "spec: {containers: [{ports: [{containerport: 80}]}]}\n":      "spec.containers[0].ports[0].containerport: unknown field",
		podHead + "status: {podIps: []}\n":                                      "status.podIps: unknown field",
		podHead + "Spec: {}\n":                                                  "Spec: unknown field",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, lables: {}}\n":    "metadata.lables: unknown field",
		"apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDRS: []}": "spec.podCIDRS: unknown field",
	} {
		_, err := Parse("f", []byte(text))
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.HasSuffix(err.Error(), wrong)) {
			t.Errorf("%s\n%v, want %q", text, err, wrong)
		}
	}
}
