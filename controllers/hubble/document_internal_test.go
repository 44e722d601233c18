package hubble

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/flows"
)

// document is docs/HUBBLE.md.
func document(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/HUBBLE.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// manifests are the files in config/hubble that the document has applied.
var manifests = []string{"certificates/certificates.yaml", "agents/patch.yaml", "relay.yaml", "ui/ui.yaml"}

// objects are the Kubernetes objects of those files, by kind and name, read strictly. Those of cert-manager are
// read as what they are in YAML.
func objects(t *testing.T) map[string]any {
	t.Helper()
	kinds := map[string]func() any{
		"Service": func() any { return &corev1.Service{} }, "ConfigMap": func() any { return &corev1.ConfigMap{} },
		"ServiceAccount": func() any { return &corev1.ServiceAccount{} }, "Deployment": func() any { return &appsv1.Deployment{} },
		"DaemonSet": func() any { return &appsv1.DaemonSet{} }, "NetworkPolicy": func() any { return &networkingv1.NetworkPolicy{} },
		"ClusterRole": func() any { return &rbacv1.ClusterRole{} }, "ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },
	}
	all := map[string]any{}
	for _, file := range manifests {
		text, err := os.ReadFile(filepath.Join("../../config/hubble", file))
		if err != nil {
			t.Fatal(err)
		}
		for reader := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text))); ; {
			buffer := make([]byte, 1<<20)
			n, err := reader.Read(buffer)
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			var head struct {
				APIVersion, Kind string
				Metadata         struct{ Name string }
			}
			if err := sigsyaml.Unmarshal(buffer[:n], &head); err != nil {
				t.Fatalf("%v in\n%s", err, buffer[:n])
			}
			var object any = &map[string]any{}
			if strings.HasPrefix(head.APIVersion, "cert-manager.io/") {
				all[head.Kind+" "+head.Metadata.Name] = object
			} else if kind := kinds[head.Kind]; kind != nil {
				object = kind()
			} else {
				t.Errorf("the kind %s is not known here", head.Kind)
			}
			if err := sigsyaml.UnmarshalStrict(buffer[:n], object); err != nil {
				t.Errorf("%s %s: %v", head.Kind, head.Metadata.Name, err)
			}
			all[head.Kind+" "+head.Metadata.Name] = object
		}
	}
	return all
}

// TestDocumentedManifests: the document names what is in config/hubble, and nothing that is not there.
func TestDocumentedManifests(t *testing.T) {
	for _, named := range regexp.MustCompile(`config/hubble[\w./-]*`).FindAllString(document(t), -1) {
		if _, err := os.Stat(filepath.Join("../..", named)); err != nil {
			t.Errorf("the document names %s: %v", named, err)
		}
	}
	for _, step := range []string{
		"kubectl apply -k config/hubble\n", "kubectl apply -k config/hubble/certificates\n", "kubectl apply -k config/hubble/ui\n",
		"kubectl -n podfence-system patch daemonset podfence-agent --patch-file config/hubble/agents/patch.yaml\n",
	} {
		if !strings.Contains(document(t), step) {
			t.Errorf("the document does not say %q", step)
		}
	}
}

// TestManifests: the document's manifests are what Kubernetes takes, and fit each other: Secrets, ports,
// labels and the version of Hubble.
func TestManifests(t *testing.T) {
	all := objects(t)
	if len(all) != 18 {
		t.Errorf("%d objects, want 18", len(all))
	}
	relay, ui := all["Deployment hubble-relay"].(*appsv1.Deployment), all["Deployment hubble-ui"].(*appsv1.Deployment)
	agent, peer := all["DaemonSet podfence-agent"].(*appsv1.DaemonSet), all["Service hubble-peer"].(*corev1.Service)
	for _, d := range []*appsv1.Deployment{relay, ui} {
		service := all["Service "+d.Name].(*corev1.Service)
		if fmt.Sprint(service.Spec.Selector) != fmt.Sprint(d.Spec.Template.Labels) || fmt.Sprint(d.Spec.Selector.MatchLabels) != fmt.Sprint(d.Spec.Template.Labels) {
			t.Errorf("%s: the Service or the Deployment does not select its pods", d.Name)
		}
	}
	if mode := agent.Spec.Template.Spec.Volumes[0].Secret.DefaultMode; *mode != 0o400 {
		t.Errorf("the agents' key has the mode %o", *mode)
	}
	environment := map[string]string{}
	for _, variable := range agent.Spec.Template.Spec.Containers[0].Env {
		environment[variable.Name] = variable.Value
	}
	files := TLSFiles{Cert: environment["PODFENCE_HUBBLE_TLS_CERT_FILE"], Key: environment["PODFENCE_HUBBLE_TLS_KEY_FILE"], ClientCA: environment["PODFENCE_HUBBLE_TLS_CLIENT_CA_FILE"]}
	if err := CheckAddress(environment["PODFENCE_HUBBLE_ADDRESS"], files); err != nil || !files.Given() || len(environment) != 4 {
		t.Errorf("the agents' settings: %v", err)
	}
	if port := environment["PODFENCE_HUBBLE_ADDRESS"]; ":"+peer.Spec.Ports[0].TargetPort.String() != port {
		t.Errorf("the Service leads to %s, and agents listen on %s", peer.Spec.Ports[0].TargetPort.String(), port)
	}
	manager, err := os.ReadFile("../../config/manager/manager.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range peer.Spec.Selector {
		if !bytes.Contains(manager, []byte(key+": "+value)) {
			t.Errorf("the agents have no label %s=%s", key, value)
		}
	}
	if image := relay.Spec.Template.Spec.Containers[0].Image; !strings.HasSuffix(image, ":"+ciliumOf(t, "../../go.mod")) {
		t.Errorf("the relay is %s, and the API is of %s", image, ciliumOf(t, "../../go.mod"))
	}
	config := all["ConfigMap hubble-relay-config"].(*corev1.ConfigMap).Data["config.yaml"]
	if err := sigsyaml.UnmarshalStrict([]byte(config), &map[string]any{}); err != nil || !strings.Contains(config, "tls-hubble-server-ca-files: /var/lib/hubble-relay/tls/ca.crt") {
		t.Errorf("the relay's configuration: %v", err)
	}
}

// ciliumOf is the version of Cilium that a go.mod names.
func ciliumOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`github\.com/cilium/cilium (v\S+)`).FindSubmatch(text)
	if version == nil {
		t.Fatalf("%s does not name Cilium", path)
	}
	return string(version[1])
}

// TestStockIsOfThisVersion: make test-hubble runs Hubble's programs of the version that the API here is of.
func TestStockIsOfThisVersion(t *testing.T) {
	if here, stock := ciliumOf(t, "../../go.mod"), ciliumOf(t, "../../test/hubble/stock/go.mod"); here != stock {
		t.Errorf("the API is of %s, and the programs of %s", here, stock)
	}
}

// TestDocumentedReasons: the document's table of reasons is the one that is used.
func TestDocumentedReasons(t *testing.T) {
	for _, reason := range flows.Reasons {
		if row := fmt.Sprintf("\n| `%s` | `%s` |\n", reason, reasons[reason]); !strings.Contains(document(t), row) {
			t.Errorf("there is no row %q", row)
		}
	}
}

// TestDocumentedFields: the document says of each field of Hubble's flow with what it is filled.
func TestDocumentedFields(t *testing.T) {
	begin := strings.Index(document(t), "| field |")
	table, _, _ := strings.Cut(document(t)[begin:], "\n\n")
	described := (&flowpb.Flow{}).ProtoReflect().Descriptor().Fields()
	for i := range described.Len() {
		if name := string(described.Get(i).Name()); !strings.Contains(table, "`"+name+"`") {
			t.Errorf("nothing is said of %s", name)
		}
	}
}

// TestDocumentedFilters: the document names the filters that are answered, and those that nothing matches.
func TestDocumentedFilters(t *testing.T) {
	text := strings.ReplaceAll(document(t), "\n", " ")
	quoted := func(from, to string) (names []string) {
		_, text, _ := strings.Cut(text, from)
		text, _, _ = strings.Cut(text, to)
		for _, name := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(text, -1) {
			names = append(names, name[1])
		}
		return names
	}
	answered, cannot := quoted("These filters are answered:", "."), quoted("podfence does not know:", ".")
	for name := range fields {
		is, never := slices.Contains(answered, string(name)), slices.Contains(impossible, name)
		if name != "experimental" && (is == never || never != slices.Contains(cannot, string(name))) {
			t.Errorf("%s is documented in the wrong place, or not at all", name)
		}
	}
	if len(answered)+len(cannot)+1 != len(fields) {
		t.Errorf("%d filters are documented, of %d", len(answered)+len(cannot)+1, len(fields))
	}
}
