package charts

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestAbout: what Chart.yaml tells those who look for charts is so: files that it links to are there, the icon is an
// SVG without anything that runs or is fetched, and the kinds are those that are rendered.
func TestAbout(t *testing.T) {
	text, err := os.ReadFile("podfence/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var about struct {
		Icon        string            `json:"icon"`
		KubeVersion string            `json:"kubeVersion"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := yaml.Unmarshal(text, &about); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"category", "license", "links", "crds"} {
		if about.Annotations["artifacthub.io/"+name] == "" {
			t.Errorf("there is no annotation %s", name)
		}
	}
	if about.KubeVersion != ">=1.25.0-0" {
		t.Errorf("it is for Kubernetes %s", about.KubeVersion)
	}

	linked := 0
	for _, link := range regexp.MustCompile(`https://(?:github\.com/podfence/podfence/(?:tree|blob)|raw\.githubusercontent\.com/podfence/podfence)/main/(\S+)`).FindAllStringSubmatch(string(text), -1) {
		if linked++; !exists(filepath.Join("..", link[1])) {
			t.Errorf("%s is not in the repository", link[0])
		}
	}
	if linked < 3 || !strings.HasSuffix(about.Icon, "/main/charts/icon.svg") {
		t.Errorf("there are %d links, and the icon is %s", linked, about.Icon)
	}
	checkIcon(t, "icon.svg")

	var kinds []struct{ Kind, Version, Name, DisplayName, Description string }
	if err := yaml.UnmarshalStrict([]byte(about.Annotations["artifacthub.io/crds"]), &kinds); err != nil {
		t.Fatal(err)
	}
	objects, seen := render(t), 0
	rendered := flat(t, objects)
	for key := range objects {
		name, is := strings.CutPrefix(key, "CustomResourceDefinition/")
		if !is {
			continue
		}
		seen++
		if len(kinds) != 1 || kinds[0].Name != name || `"`+kinds[0].Kind+`"` != rendered[key+".spec.names.kind"] || `"`+kinds[0].Version+`"` != rendered[key+".spec.versions[0].name"] {
			t.Errorf("%s is rendered, and Chart.yaml has %+v", name, kinds)
		}
	}
	if seen != len(kinds) {
		t.Errorf("%d kinds are rendered, and Chart.yaml has %+v", seen, kinds)
	}
}

// TestPackage: the chart that is packed has the versions that it is packed for, everywhere, and tells Artifact Hub of the
// image that it installs.
func TestPackage(t *testing.T) {
	if !exists("package.sh") { // which tells go test of it
		t.Fatal("there is no package.sh")
	}
	if _, err := helm(t, "version"); err != nil {
		t.Fatal(err)
	}
	for chart, prerelease := range map[string]string{"1.2.3": "false", "1.2.3-rc.1": "true"} {
		t.Run(chart, func(t *testing.T) {
			folder := t.TempDir()
			cmd := exec.Command("./package.sh", chart, "v"+chart, "ghcr.io/podfence/podfence", folder)
			cmd.Env = append(os.Environ(), "HELM="+tools["helm"])
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			archive := filepath.Join(folder, "podfence-"+chart+".tgz")
			text, err := helm(t, "show", "chart", archive)
			if err != nil {
				t.Fatal(err)
			}
			var about struct {
				Version     string            `json:"version"`
				AppVersion  string            `json:"appVersion"`
				Annotations map[string]string `json:"annotations"`
			}
			if err := yaml.Unmarshal([]byte(text), &about); err != nil {
				t.Fatal(err)
			}
			if about.Version != chart || about.AppVersion != "v"+chart || about.Annotations["artifacthub.io/prerelease"] != prerelease {
				t.Errorf("it is %+v", about)
			}
			var images []struct{ Name, Image string }
			if err := yaml.UnmarshalStrict([]byte(about.Annotations["artifacthub.io/images"]), &images); err != nil {
				t.Fatal(err)
			}
			var changes []struct {
				Kind, Description string
				Links             []struct{ Name, URL string }
			}
			if err := yaml.UnmarshalStrict([]byte(about.Annotations["artifacthub.io/changes"]), &changes); err != nil {
				t.Fatal(err)
			}
			if len(changes) != 1 || len(changes[0].Links) != 1 || !strings.HasSuffix(changes[0].Links[0].URL, "/releases/tag/v"+chart) {
				t.Errorf("the changes are %+v", changes)
			}
			rendered, err := helm(t, "template", release, archive, "-n", namespace)
			if err != nil {
				t.Fatal(err)
			}
			if len(images) != 1 {
				t.Fatalf("it tells of the images %v", images)
			}
			for _, image := range regexp.MustCompile(`image: "?([^"\n]+)"?`).FindAllStringSubmatch(rendered, -1) {
				if image[1] != images[0].Image {
					t.Errorf("it installs %s, and tells of %s", image[1], images[0].Image)
				}
			}
			if !strings.Contains(rendered, `image: "`+images[0].Image+`"`) {
				t.Errorf("it does not install %s", images[0].Image)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// checkIcon fails the test for an icon that is no XML, or has more than shapes.
func checkIcon(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	elements := map[string]int{}
	for decoder := xml.NewDecoder(file); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if element, is := token.(xml.StartElement); is {
			elements[element.Name.Local]++
		}
	}
	shapes := elements["path"]
	for _, name := range []string{"svg", "title", "g", "path"} {
		delete(elements, name)
	}
	if shapes == 0 || len(elements) > 0 {
		t.Errorf("%s has %d shapes, and besides %v", path, shapes, elements)
	}
}
