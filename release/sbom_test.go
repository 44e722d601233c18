package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
)

// TestBillIsWhatGoSays: the document of a program lists the modules that `go version -m` lists, each
// once and with the same version and checksum, and no others. The program is this module's own,
// which has dozens; so it is for one with a module that is replaced.
func TestBillIsWhatGoSays(t *testing.T) {
	for name, program := range map[string]string{"own": build(t, "."), "replaced": build(t, replaced(t))} {
		t.Run(name, func(t *testing.T) {
			if err := writeSBOM(program, "v1.2.3", created, io.Discard); err != nil {
				t.Fatal(err)
			}
			document := readBill(t, program+".spdx.json")
			var listed []string
			for _, p := range document.Packages[1:] {
				listed = append(listed, strings.Join([]string{p.PackageName, p.PackageVersion, strings.TrimPrefix(p.PackageSourceInfo, "go.sum ")}, " "))
			}
			slices.Sort(listed)
			if said := goSays(t, program); !slices.Equal(listed, said) {
				t.Errorf("the document lists\n%s\nand go version -m\n%s", strings.Join(listed, "\n"), strings.Join(said, "\n"))
			} else if len(said) < 2 {
				t.Errorf("only %q is listed", said)
			}
		})
	}
}

// TestBillIsComplete: the document is one of SPDX 2.3, with what that asks for of every document and
// package, and everything in it depends on what it describes; the same program makes the same document.
func TestBillIsComplete(t *testing.T) {
	program := build(t, ".")
	if err := writeSBOM(program, "v1.2.3", created, io.Discard); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(program + ".spdx.json")
	if err != nil {
		t.Fatal(err)
	}
	d := readBill(t, program+".spdx.json")
	if d.SPDXVersion != "SPDX-2.3" || d.DataLicense != "CC0-1.0" || d.DocumentNamespace == "" || d.CreationInfo.Created != "2023-11-14T22:13:20Z" || len(d.CreationInfo.Creators) == 0 {
		t.Errorf("%+v", d)
	}
	related := map[string]string{}
	for _, r := range d.Relationships {
		related[string(r.RefB.ElementRefID)] = string(r.RefA.ElementRefID) + " " + r.Relationship
	}
	for i, p := range d.Packages {
		wanted := "Package-main DEPENDS_ON"
		if i == 0 {
			wanted = "DOCUMENT DESCRIBES"
		}
		if got := related[string(p.PackageSPDXIdentifier)]; got != wanted {
			t.Errorf("%s: related as %q, not %q", p.PackageName, got, wanted)
		}
		if p.PackageDownloadLocation == "" || p.FilesAnalyzed || p.PackageLicenseConcluded == "" || len(p.PackageExternalReferences) != 1 || !strings.HasPrefix(p.PackageExternalReferences[0].Locator, "pkg:golang/") {
			t.Errorf("%s: %+v", p.PackageName, p)
		}
	}
	if len(related) != len(d.Packages) {
		t.Errorf("%d packages are related, of %d", len(related), len(d.Packages))
	}
	if err := writeSBOM(program, "v1.2.3", created, io.Discard); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(program + ".spdx.json"); err != nil || !bytes.Equal(first, second) {
		t.Errorf("the document of the same program is another one: %v", err)
	}
}

// TestBillOfOthers: what Go has not built is an error.
func TestBillOfOthers(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeSBOM(script, "v1.2.3", created, io.Discard); err == nil || !strings.Contains(err.Error(), "only programs that Go has built") {
		t.Errorf("%v", err)
	}
}

// goSays returns the modules that go version -m lists, and Go itself, in order: name, version, checksum.
func goSays(t *testing.T, program string) (lines []string) {
	t.Helper()
	out, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(out), "\n") {
		words := strings.Fields(line)
		switch {
		case i == 0:
			lines = append(lines, "stdlib "+words[1]+" ")
		case len(words) > 2 && words[0] == "dep":
			lines = append(lines, strings.Join(append(words[1:], "")[:3], " "))
		case len(words) > 2 && words[0] == "=>":
			lines[len(lines)-1] = strings.Join(append(words[1:], "")[:3], " ")
		}
	}
	slices.Sort(lines)
	return lines
}

// build builds the program in a folder.
func build(t *testing.T, folder string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
	build.Dir = folder
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// replaced is a folder with a program one of whose modules is replaced by a folder.
func replaced(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":       "module example.com/program\ngo 1.26\nrequire example.com/part v1.0.0\nreplace example.com/part v1.0.0 => ./part\n",
		"main.go":      "package main\nimport \"example.com/part\"\nfunc main() { println(part.Name()) }\n",
		"part/go.mod":  "module example.com/part\ngo 1.26\n",
		"part/part.go": "package part\nfunc Name() string { return \"part\" }\n",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func readBill(t *testing.T, path string) *spdx.Document {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	document, err := spdxjson.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return document
}
