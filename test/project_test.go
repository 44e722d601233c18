package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// project is kubebuilder's file PROJECT, of which no field may be one that kubebuilder 4 does not have.
type project struct {
	CLIVersion  string            `json:"cliVersion"`
	Domain      string            `json:"domain"`
	Layout      []string          `json:"layout"`
	Multigroup  bool              `json:"multigroup"`
	ProjectName string            `json:"projectName"`
	Repo        string            `json:"repo"`
	Resources   []projectResource `json:"resources"`
	Version     string            `json:"version"`
}

type projectResource struct {
	API *struct {
		CRDVersion string `json:"crdVersion"`
		Namespaced bool   `json:"namespaced"`
	} `json:"api"`
	Controller bool   `json:"controller"`
	Core       bool   `json:"core"`
	External   bool   `json:"external"`
	Domain     string `json:"domain"`
	Group      string `json:"group"`
	Kind       string `json:"kind"`
	Module     string `json:"module"`
	Path       string `json:"path"`
	Version    string `json:"version"`
}

// TestProject: what PROJECT says is so in the code.
func TestProject(t *testing.T) {
	var p project
	readYAML(t, "../PROJECT", &p)
	text, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod := string(text)
	if p.Version != "3" || !slices.Equal(p.Layout, []string{"go.kubebuilder.io/v4"}) || !regexp.MustCompile(`^4\.\d+\.\d+$`).MatchString(p.CLIVersion) {
		t.Errorf("it is not of kubebuilder 4: version %q, layout %q, cliVersion %q", p.Version, p.Layout, p.CLIVersion)
	}
	if p.Repo != module || p.ProjectName != filepath.Base(p.Repo) {
		t.Errorf("repo %q, projectName %q; the module is %s", p.Repo, p.ProjectName, module)
	}
	imported, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, "../controllers", "../controllers/nodes").Output()
	if err != nil {
		t.Fatal(err)
	}
	var listed, there []string
	for _, r := range p.Resources {
		listed = append(listed, "../controllers/"+strings.ToLower(r.Kind)+"_controller.go")
		if !slices.Contains(strings.Fields(string(imported)), r.Path) {
			t.Errorf("%s: the controllers do not import %s", r.Kind, r.Path)
		}
		if !r.Controller || !strings.HasSuffix(r.Path, "/"+r.Version) {
			t.Errorf("%s: controller is %v, version %q, path %q", r.Kind, r.Controller, r.Version, r.Path)
		}
		switch {
		case r.Core && !r.External && r.API == nil:
			if !strings.HasPrefix(r.Path, "k8s.io/api/"+r.Group+"/") {
				t.Errorf("%s is core, and its path %s", r.Kind, r.Path)
			}
		case r.External && !r.Core && r.API == nil:
			name, version, _ := strings.Cut(r.Module, "@")
			if !strings.Contains(mod, "\n\t"+name+" "+version+"\n") || !strings.HasPrefix(r.Path, name+"/") {
				t.Errorf("%s, with path %s: go.mod does not require %q", r.Kind, r.Path, r.Module)
			}
		case r.API != nil && !r.Core && !r.External:
			matchesCRD(t, p, r)
		default:
			t.Errorf("%s: it is one of core, external, and of podfence's own: %+v", r.Kind, r)
		}
	}
	if there, err = filepath.Glob("../controllers/*_controller.go"); err != nil {
		t.Fatal(err)
	}
	slices.Sort(listed)
	if !slices.Equal(listed, there) || len(there) < 6 {
		t.Errorf("PROJECT has the controllers\n%q; there are\n%q", listed, there)
	}
}

// matchesCRD: a resource of podfence's own is as its definition has it.
func matchesCRD(t *testing.T, p project, r projectResource) {
	t.Helper()
	paths, err := filepath.Glob("../config/crd/" + p.Domain + "_*.yaml")
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s is listed, and the definitions are %q (%v)", r.Kind, paths, err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	readYAML(t, paths[0], &crd)
	group := strings.TrimPrefix(r.Group+"."+r.Domain, ".")
	namespaced := crd.Spec.Scope == apiextensionsv1.NamespaceScoped
	if crd.APIVersion != "apiextensions.k8s.io/"+r.API.CRDVersion || crd.Spec.Group != group || crd.Spec.Names.Kind != r.Kind ||
		crd.Spec.Versions[0].Name != r.Version || namespaced != r.API.Namespaced || r.Path != p.Repo+"/api/"+r.Version {
		t.Errorf("PROJECT has %s of %s %+v at %s; %s defines %s, version %s, %s, of %s, namespaced %v",
			r.Kind, group, *r.API, r.Path, paths[0], crd.Spec.Names.Kind, crd.Spec.Versions[0].Name, crd.APIVersion, crd.Spec.Group, namespaced)
	}
}

// readYAML reads a file, of which no field may be unknown.
func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
