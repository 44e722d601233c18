package charts

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// released is the tag of podfence's image in this tree: the chart's appVersion. An error is a value that no
// image has, which the tests say then.
var released = func() string {
	var chart struct{ AppVersion string }
	text, err := os.ReadFile("podfence/Chart.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &chart)
	}
	return cmp.Or(chart.AppVersion, fmt.Sprint("no appVersion: ", err))
}()

// TestImagesArePinned: all that users apply names images by a tag, and not by latest, which nodes that have an
// image of that name would never pull again. Podfence's own have the tag of the release, which is one.
func TestImagesArePinned(t *testing.T) {
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(released) {
		t.Errorf("the chart's appVersion is %q, which is no release's tag", released)
	}
	texts := map[string]string{
		"chart":            template(t, release, namespace, `uninstall=true`),
		"chart, of others": template(t, "other", "elsewhere", `uninstall=true`, `cni.mode="chained"`, `image.repository="localhost:5000/podfence"`),
	}
	folders, err := filepath.Glob("../config/*")
	if err != nil {
		t.Fatal(err)
	}
	nested, err := filepath.Glob("../config/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range append(folders, nested...) {
		text, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
		if err != nil || strings.Contains(string(text), "\nkind: Component\n") {
			continue
		}
		if texts[folder], err = tool(t, "kustomize", "build", folder); err != nil {
			t.Fatal(err)
		}
	}
	own, others := 0, 0
	for of, text := range texts {
		for _, image := range regexp.MustCompile(`(?m)^[ -]*image: *(.*)$`).FindAllStringSubmatch(text, -1) {
			name := strings.Trim(image[1], `"`)
			tag := regexp.MustCompile(`^[^@]+:([\w.-]+)(@sha256:[0-9a-f]{64})?$`).FindStringSubmatch(name)
			switch {
			case tag == nil || tag[1] == "latest":
				t.Errorf("%s: image %q is not pinned by a tag", of, name)
			case !strings.Contains(name, "/podfence:"):
				others++
			case tag[1] != released:
				t.Errorf("%s: image %q has not the release's tag, %s: make release-version writes all", of, name, released)
			default:
				own++
			}
		}
	}
	// Agent and status writer in each of the chart's and of three overlays, the uninstaller's two containers.
	if own < 2*2+2*2+3*2+2 || others < 4 {
		t.Errorf("only %d images of podfence, and %d of others seen in %d renderings", own, others, len(texts))
	}
}

// TestReadmeInstallsTheRelease: what README says to apply names the release that the tree has.
func TestReadmeInstallsTheRelease(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"podfence/podfence/config/default?ref=" + released + `"`,
		"oci://ghcr.io/podfence/charts/podfence --version " + strings.TrimPrefix(released, "v") + " ",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("README.md does not have %q: make release-version writes it", want)
		}
	}
}
