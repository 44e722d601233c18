package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/test/walk"
)

// TestHelp: make help has what kubebuilder's users look for, in the groups in which kubebuilder has it.
func TestHelp(t *testing.T) {
	if _, err := os.ReadFile("../Makefile"); err != nil { // so that go test's cache knows of it
		t.Fatal(err)
	}
	out, err := exec.Command("make", "-C", "..", "--no-print-directory", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	groups, group := map[string]string{}, ""
	for line := range strings.Lines(string(out)) {
		if name, is := strings.CutPrefix(line, "  "); is {
			groups[strings.Fields(name)[0]] = group
		} else if strings.TrimSpace(line) != "" {
			group = strings.TrimSpace(line)
		}
	}
	want := map[string]string{"help": "General", "build": "Build", "build-installer": "Build", "install": "Deployment", "uninstall": "Deployment", "deploy": "Deployment", "undeploy": "Deployment"}
	for _, target := range walk.Targets() {
		of := want[target]
		switch {
		case of == "" && strings.HasPrefix(target, "docker-"):
			of = "Build"
		case of == "" && target == "run":
			of = "Build"
		case of == "":
			of = "Development"
		}
		if got, _, _ := strings.Cut(groups[target], ":"); got != of {
			t.Errorf("make help has %s in the group %q, and kubebuilder in %q", target, groups[target], of)
		}
	}
}

// TestContainerTools: what docker-build, docker-push and docker-buildx have each container tool do. The tools are
// scripts that write down how they are called.
func TestContainerTools(t *testing.T) {
	for _, path := range []string{"../Makefile", "../Dockerfile", "../release/buildx.sh"} {
		if _, err := os.ReadFile(path); err != nil { // so that go test's cache knows of it
			t.Fatal(err)
		}
	}
	const (
		image   = "example.com/fence:v9"
		build   = "build --build-arg VERSION=v9 --build-arg STAMP=-X main.version=v9 -t " + image + " .\n"
		push    = "push " + image + "\n"
		options = " --platform linux/amd64,linux/riscv64 --build-arg VERSION=v9 --build-arg STAMP=-X main.version=v9 --file DOCKERFILE"
		cross   = "FROM --platform=$BUILDPLATFORM golang:1.26 AS build\n"
	)
	for tool, buildx := range map[string]string{
		"docker": "buildx inspect podfence-builder\nbuildx build --builder podfence-builder" + options + " --tag " + image + " --push .\n" + cross +
			"buildx rm podfence-builder\n",
		"podman": "manifest exists " + image + "\nmanifest rm " + image + "\nbuild" + options + " --manifest " + image + " .\n" + cross +
			"manifest push --all " + image + " docker://" + image + "\n",
		"nerdctl": "build" + options + " --tag " + image + " .\n" + cross + "push --all-platforms " + image + "\n",
	} {
		t.Run(tool, func(t *testing.T) {
			folder := t.TempDir()
			program, log := filepath.Join(folder, tool), filepath.Join(folder, "log")
			script := "#!/bin/sh\necho \"$@\" >>" + log + "\nwhile [ $# -gt 0 ]; do [ \"$1\" != --file ] || grep golang \"$2\" >>" + log + "; shift; done\n"
			if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct{ target, want string }{{"docker-build", build}, {"docker-push", push}, {"docker-buildx", buildx}} {
				if err := os.WriteFile(log, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command("make", "-C", "..", c.target, "CONTAINER_TOOL="+program, "IMG="+image, "VERSION=v9", "STAMP=-X main.version=v9", "PLATFORMS=linux/amd64,linux/riscv64").CombinedOutput()
				if err != nil {
					t.Errorf("make %s: %v: %s", c.target, err, out)
				}
				text, err := os.ReadFile(log)
				if err != nil {
					t.Fatal(err)
				}
				got := regexp.MustCompile(`--file /\S+`).ReplaceAllString(string(text), "--file DOCKERFILE")
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("make %s calls %s (-want +got):\n%s", c.target, tool, diff)
				}
			}
		})
	}
}
