package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSign: checksums and image are signed, and of each platform's image it is attested what both of its
// programs are made of. In cosign's place is a script that writes down what it was called with.
func TestSign(t *testing.T) {
	folder := t.TempDir()
	called := filepath.Join(folder, "called")
	for path, text := range map[string]string{
		filepath.Join(folder, "cosign"):        "#!/bin/sh\necho \"$*\" >>" + called + "\n",
		filepath.Join(folder, "image-digests"): "example.com/p@sha256:aa\nexample.com/p@sha256:bb amd64\nexample.com/p@sha256:cc arm\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	sign := exec.Command("./sign.sh", folder)
	sign.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"))
	if out, err := sign.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(called)
	if err != nil {
		t.Fatal(err)
	}
	wanted := strings.ReplaceAll(`sign-blob --yes --bundle FOLDER/SHA256SUMS.sigstore.json FOLDER/SHA256SUMS
sign --yes --recursive example.com/p@sha256:aa
attest --yes --type spdxjson --predicate FOLDER/podfence-linux-amd64.spdx.json example.com/p@sha256:bb
attest --yes --type spdxjson --predicate FOLDER/podfence-cni-linux-amd64.spdx.json example.com/p@sha256:bb
attest --yes --type spdxjson --predicate FOLDER/podfence-linux-arm.spdx.json example.com/p@sha256:cc
attest --yes --type spdxjson --predicate FOLDER/podfence-cni-linux-arm.spdx.json example.com/p@sha256:cc
`, "FOLDER", folder)
	if string(got) != wanted {
		t.Errorf("cosign was called with\n%s\nand not\n%s", got, wanted)
	}
}
