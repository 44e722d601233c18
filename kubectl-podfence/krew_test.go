package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// krewManifest is what krew reads of a manifest; it refuses other fields.
type krewManifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string         `json:"version"`
		Homepage         string         `json:"homepage"`
		ShortDescription string         `json:"shortDescription"`
		Description      string         `json:"description"`
		Caveats          string         `json:"caveats"`
		Platforms        []krewPlatform `json:"platforms"`
	} `json:"spec"`
}

type krewPlatform struct {
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	URI    string `json:"uri"`
	Sha256 string `json:"sha256"`
	Bin    string `json:"bin"`
	Files  []struct {
		From string `json:"from"`
		To   string `json:"to"`
	} `json:"files"`
}

// TestKrewManifest: krew.yaml, filled as package.sh does it, is one that krew takes: its rules are those of
// https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest and of the krew-index.
func TestKrewManifest(t *testing.T) {
	template, err := os.ReadFile("krew.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(template), "VERSION", "v1.2.3")
	for _, os := range []string{"LINUX", "DARWIN", "WINDOWS"} {
		for _, arch := range []string{"AMD64", "ARM64"} {
			text = strings.ReplaceAll(text, "SHA256_"+os+"_"+arch, strings.Repeat("0", 64))
		}
	}
	var m krewManifest
	if err := yaml.UnmarshalStrict([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	s := m.Spec
	if m.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || m.Kind != "Plugin" || m.Metadata.Name != "podfence" || s.Version != "v1.2.3" || s.Homepage == "" || s.Description == "" {
		t.Errorf("%+v", m)
	}
	if len(s.ShortDescription) > 50 || s.ShortDescription == "" || strings.HasSuffix(s.ShortDescription, ".") {
		t.Errorf("short description %q: krew takes up to 50 characters, and no full stop", s.ShortDescription)
	}
	seen := map[string]bool{}
	for _, p := range s.Platforms {
		os, arch := p.Selector.MatchLabels["os"], p.Selector.MatchLabels["arch"]
		seen[os+"/"+arch] = true
		if p.URI != "https://github.com/podfence/podfence/releases/download/v1.2.3/kubectl-podfence-"+os+"-"+arch+".tar.gz" {
			t.Errorf("%s/%s: %s", os, arch, p.URI)
		}
		if !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(p.Sha256) {
			t.Errorf("%s/%s: checksum %q", os, arch, p.Sha256)
		}
		var files []string
		for _, f := range p.Files {
			files = append(files, f.From+" "+f.To)
		}
		if strings.HasSuffix(p.Bin, ".exe") != (os == "windows") || strings.Join(files, ", ") != p.Bin+" ., LICENSE ." {
			t.Errorf("%s/%s: program %s of files %q", os, arch, p.Bin, files)
		}
	}
	if len(seen) != 6 || len(s.Platforms) != 6 {
		t.Errorf("platforms: %v", seen)
	}
}
