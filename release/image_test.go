package main

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// created is when the tests' images are made.
var created = time.Unix(1_700_000_000, 0).UTC()

// TestDockerfile: the image is what podfence's Dockerfile says.
func TestDockerfile(t *testing.T) {
	r := podfenceRecipe(t)
	if !slices.Equal(r.entrypoint, []string{"/podfence"}) {
		t.Errorf("entrypoint %q", r.entrypoint)
	}
	if r.files["/podfence"] != "podfence" || r.files["/podfence-cni"] != "podfence-cni" || len(r.files) != 2 {
		t.Errorf("files %v", r.files)
	}
	for key, value := range map[string]string{
		"title": "podfence", "version": "v1.2.3", "licenses": "Apache-2.0", "source": "https://github.com/podfence/podfence",
	} {
		if got := r.labels["org.opencontainers.image."+key]; got != value {
			t.Errorf("label %s is %q, not %q", key, got, value)
		}
	}
}

// TestDockerfileUnknown: what is not understood of a Dockerfile is an error, and not left out.
func TestDockerfileUnknown(t *testing.T) {
	for text, wanted := range map[string]string{
		"FROM scratch AS prebuilt\nUSER 1000":                       "USER: the instruction is not known",
		"FROM scratch AS prebuilt\nCOPY --chown=1 bin/podfence /":   "the flags",
		"FROM scratch AS prebuilt\nENTRYPOINT /podfence":            "only the form of a JSON list",
		"FROM scratch AS other":                                     `no stage "prebuilt"`,
		"FROM missing AS prebuilt":                                  `no stage "missing"`,
		"FROM scratch AS prebuilt\nLABEL version=\"${UNDECLARED}\"": "not declared",
	} {
		path := filepath.Join(t.TempDir(), "Dockerfile")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := readDockerfile(path, prebuiltStage, nil)
		if err == nil || !strings.Contains(err.Error(), wanted) {
			t.Errorf("%q: %v, %v; wanted %q", text, r, err, wanted)
		}
	}
}

// TestTargetsAreTheMakefiles: the image is for the platforms that the Makefile builds podfence for.
func TestTargetsAreTheMakefiles(t *testing.T) {
	text, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^LINUX := (.*)$`).FindSubmatch(text)
	if line == nil {
		t.Fatal("the Makefile has no line LINUX :=")
	}
	var own []string
	for _, t := range targets() {
		own = append(own, t.platform.Architecture)
	}
	if makes := strings.Fields(string(line[1])); !slices.Equal(makes, own) {
		t.Errorf("the Makefile builds for %v, the image is for %v", makes, own)
	}
}

// TestImage: an image goes into an OCI layout, from there to a registry, and is there for every
// platform; the same programs make the same image.
func TestImage(t *testing.T) {
	r, binaries := podfenceRecipe(t), programs(t)
	folder := filepath.Join(t.TempDir(), "image")
	if err := writeImage(r, binaries, folder, "v1.2.3", created); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	if err := verifyImage(r, folder, &lines); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(lines.String(), "\n"); got != len(targets()) {
		t.Errorf("%d lines:\n%s", got, &lines)
	}
	again := filepath.Join(t.TempDir(), "again")
	if err := writeImage(r, binaries, again, "v1.2.3", created); err != nil {
		t.Fatal(err)
	}
	if first, second := digestOf(t, folder), digestOf(t, again); first != second {
		t.Errorf("the same programs make %s and %s", first, second)
	}

	server := httptest.NewServer(registry.New())
	defer server.Close()
	image := strings.TrimPrefix(server.URL, "http://") + "/podfence:v1.2.3"
	var pushed strings.Builder
	if err := push(context.Background(), folder, image, &pushed); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	told := strings.Split(strings.TrimSpace(pushed.String()), "\n")
	if wanted := ref.Context().Digest(digestOf(t, folder).String()).String(); told[0] != wanted || len(told) != 1+len(targets()) {
		t.Fatalf("told of %q; the first was to be %s", told, wanted)
	}
	for i, target := range targets() {
		digest, arch, _ := strings.Cut(told[1+i], " ")
		if arch != target.platform.Architecture {
			t.Errorf("told of %q for %s", told[1+i], target.platform)
		}
		named, err := name.NewDigest(digest)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Image(named)
		if err != nil {
			t.Fatalf("%s: %v", target.platform, err)
		}
		if err := r.verify(got, target); err != nil {
			t.Errorf("%s, from the registry: %v", target.platform, err)
		}
	}
}

// TestImageWithWrongProgram: a program for another platform, or one that needs a dynamic linker,
// is found where the image is read again.
func TestImageWithWrongProgram(t *testing.T) {
	for wanted, wrong := range map[string][]byte{
		"it is for EM_X86_64":          header(elf.EM_X86_64, elf.ELFCLASS64, binary.LittleEndian, false),
		"it is for EM_PPC64":           header(elf.EM_PPC64, elf.ELFCLASS64, binary.BigEndian, false),
		"it is no ELF file":            []byte("#!/bin/sh\n"),
		"asks for a dynamic linker":    header(elf.EM_S390, elf.ELFCLASS64, binary.BigEndian, true),
		"it is for EM_S390, ELFCLASS3": header(elf.EM_S390, elf.ELFCLASS32, binary.BigEndian, false),
	} {
		r, binaries := podfenceRecipe(t), programs(t)
		if err := os.WriteFile(filepath.Join(binaries, "podfence-cni-linux-s390x"), wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(t.TempDir(), "image")
		if err := writeImage(r, binaries, folder, "v1.2.3", created); err != nil {
			t.Fatal(err)
		}
		err := verifyImage(r, folder, io.Discard)
		if err == nil || !strings.Contains(err.Error(), wanted) || !strings.Contains(err.Error(), "linux/s390x: /podfence-cni") {
			t.Errorf("%v; wanted %q", err, wanted)
		}
	}
}

// TestImageWithoutProgram: a program that was not built is an error that says how it is.
func TestImageWithoutProgram(t *testing.T) {
	r, binaries := podfenceRecipe(t), programs(t)
	if err := os.Remove(filepath.Join(binaries, "podfence-linux-riscv64")); err != nil {
		t.Fatal(err)
	}
	err := writeImage(r, binaries, filepath.Join(t.TempDir(), "image"), "v1.2.3", created)
	if err == nil || !strings.Contains(err.Error(), "make release-binaries") || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Errorf("%v", err)
	}
}

func podfenceRecipe(t *testing.T) *recipe {
	t.Helper()
	r, err := readDockerfile("../Dockerfile", prebuiltStage, map[string]string{"VERSION": "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func digestOf(t *testing.T, folder string) v1.Hash {
	t.Helper()
	index, err := readIndex(folder)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// programs is a folder with podfence and podfence-cni for every platform: each an ELF header alone,
// which is what tells of the platform.
func programs(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, target := range targets() {
		for _, program := range []string{"podfence", "podfence-cni"} {
			path := filepath.Join(folder, program+"-linux-"+target.platform.Architecture)
			if err := os.WriteFile(path, header(target.machine, target.class, target.order, false), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return folder
}

// header is the start of an ELF file, with a segment that names a dynamic linker if it is to be dynamic.
func header(machine elf.Machine, class elf.Class, order binary.ByteOrder, dynamic bool) []byte {
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(class), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	if order == binary.BigEndian {
		ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	var file []byte
	add := func(value any) {
		var err error
		if file, err = binary.Append(file, order, value); err != nil {
			panic(err) // the values are of fixed sizes
		}
	}
	if class == elf.ELFCLASS32 {
		add(elf.Header32{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 52})
		return file
	}
	h := elf.Header64{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	if dynamic {
		h.Phoff, h.Phentsize, h.Phnum = 64, 56, 1
	}
	add(h)
	if dynamic {
		add(elf.Prog64{Type: uint32(elf.PT_INTERP)})
	}
	return file
}
